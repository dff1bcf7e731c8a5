"""Run by Alembic on the connection that `webui.store.database` gives it, within its transaction.

A new migration: `alembic` needs no configuration file of ours; copy the last one, and count up its number.
"""

from __future__ import annotations

from alembic import context

from webui.store.tables import Table

# The database may be the gateway's, too, which counts its own migrations.
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    version_table="arena_version",
)
context.run_migrations()
