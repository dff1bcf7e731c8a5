"""Which visitor has agreed to which terms, and when."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_DOUBLE: sa.Double[float] = sa.Double()


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "agreements",
        sa.Column("voter", sa.String(64), nullable=False),
        sa.Column("terms", sa.String(64), nullable=False),
        sa.Column("agreed_at", _DOUBLE, nullable=False),
        sa.PrimaryKeyConstraint("voter", "terms"),
    )


def downgrade() -> None:
    """Remove it."""
    op.drop_table("agreements")
