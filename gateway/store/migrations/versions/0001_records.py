"""Records, their items and their events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "records",
        sa.Column("number", _NUMBER, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(128), nullable=False, unique=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.Column("alive_at", sa.Double),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.JSON, nullable=False),
    )
    op.create_index("ix_records_tenant_kind_number", "records", ["tenant", "kind", "number"])
    op.create_index("ix_records_changed_at", "records", ["changed_at"])
    op.create_index("ix_records_alive_at", "records", ["alive_at"])
    op.create_table(
        "items",
        sa.Column("number", _NUMBER, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("owner", sa.String(128), sa.ForeignKey("records.id", ondelete="CASCADE"), nullable=False),
        sa.Column("part", sa.String(16), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_items_owner_part_number", "items", ["owner", "part", "number"])
    op.create_index("ix_items_id", "items", ["id"])
    op.create_table(
        "events",
        sa.Column("owner", sa.String(128), sa.ForeignKey("records.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    """Remove them."""
    for name in ("events", "items", "records"):
        op.drop_table(name)
