"""Run by Alembic on the connection that `gateway.store.database` gives it, within its transaction.

A new migration: `alembic` needs no configuration file of ours; copy the last one, and count up its number.
"""

from __future__ import annotations

from alembic import context

from gateway.store.tables import Table

context.configure(connection=context.config.attributes["connection"], target_metadata=Table.metadata)
context.run_migrations()
