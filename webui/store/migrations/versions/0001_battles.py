"""Battles with their turns and answers, votes, flags, labels, and voters that do not count."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_DOUBLE: sa.Double[float] = sa.Double()


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "battles",
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("modality", sa.String(16), nullable=False),
        sa.Column("model_a", sa.String(256), nullable=False),
        sa.Column("model_b", sa.String(256)),
        sa.Column("voter", sa.String(64), nullable=False),
        sa.Column("opened_at", _DOUBLE, nullable=False),
        sa.Column("probability", _DOUBLE),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("share_key", sa.String(64)),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("share_key"),
    )
    op.create_index("ix_battles_opened_at", "battles", ["opened_at"])
    op.create_index("ix_battles_voter", "battles", ["voter"])
    op.create_table(
        "excluded",
        sa.Column("voter", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", _DOUBLE, nullable=False),
        sa.PrimaryKeyConstraint("voter"),
    )
    op.create_table(
        "pictures",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("media_type", sa.String(64), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_table(
        "settings",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "turns",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("battle", sa.String(128), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("asked_at", _DOUBLE, nullable=False),
        sa.Column("current", sa.Boolean(), nullable=False),
        sa.Column("voted", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["battle"], ["battles.id"], name="fk_turns_battle", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_turns_battle_number", "turns", ["battle", "number"])
    op.create_table(
        "votes",
        sa.Column("number", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("battle", sa.String(128), nullable=False),
        sa.Column("turn", sa.Integer(), nullable=False),
        sa.Column("choice", sa.String(16), nullable=False),
        sa.Column("voter", sa.String(64), nullable=False),
        sa.Column("cast_at", _DOUBLE, nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("blind", sa.Boolean(), nullable=False),
        sa.Column("model_a", sa.String(256), nullable=False),
        sa.Column("model_b", sa.String(256), nullable=False),
        sa.Column("language", sa.String(16), nullable=False),
        sa.Column("categories", sa.Text(), nullable=False),
        sa.Column("marks", sa.Text(), nullable=False),
        sa.Column("prompt_exact", sa.String(32), nullable=False),
        sa.Column("prompt_normal", sa.String(32), nullable=False),
        sa.Column("repeats", sa.Integer(), nullable=False),
        sa.Column("length_a", sa.Integer(), nullable=False),
        sa.Column("length_b", sa.Integer(), nullable=False),
        sa.Column("headers_a", sa.Integer(), nullable=False),
        sa.Column("headers_b", sa.Integer(), nullable=False),
        sa.Column("lists_a", sa.Integer(), nullable=False),
        sa.Column("lists_b", sa.Integer(), nullable=False),
        sa.Column("bold_a", sa.Integer(), nullable=False),
        sa.Column("bold_b", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["battle"], ["battles.id"], name="fk_votes_battle", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("battle"),
    )
    op.create_index("ix_votes_prompt_normal", "votes", ["prompt_normal"])
    op.create_index("ix_votes_tally", "votes", ["model_a", "model_b", "choice"])
    op.create_index("ix_votes_voter_number", "votes", ["voter", "number"])
    op.create_table(
        "answers",
        sa.Column("turn", _NUMBER, nullable=False),
        sa.Column("side", sa.String(1), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("reasoning", sa.Text(), nullable=False),
        sa.Column("finish", sa.String(32), nullable=False),
        sa.Column("error", sa.String(64), nullable=False),
        sa.Column("prompt_tokens", sa.Integer()),
        sa.Column("completion_tokens", sa.Integer()),
        sa.Column("first_token", _DOUBLE),
        sa.Column("duration", _DOUBLE),
        sa.Column("reaction", sa.String(16)),
        sa.ForeignKeyConstraint(["turn"], ["turns.id"], name="fk_answers_turn", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("turn", "side"),
    )
    op.create_table(
        "flags",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("turn", _NUMBER, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("side", sa.String(1), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["turn"], ["turns.id"], name="fk_flags_turn", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_flags_turn", "flags", ["turn"])
    op.create_table(
        "labels",
        sa.Column("vote", _NUMBER, nullable=False),
        sa.Column("category", sa.String(32), nullable=False),
        sa.Column("holds", sa.Boolean(), nullable=False),
        sa.Column("judge", sa.String(256), nullable=False),
        sa.ForeignKeyConstraint(["vote"], ["votes.number"], name="fk_labels_vote", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("vote", "category"),
    )
    op.create_table(
        "shown",
        sa.Column("turn", _NUMBER, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("picture", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(["picture"], ["pictures.key"], name="fk_shown_picture"),
        sa.ForeignKeyConstraint(["turn"], ["turns.id"], name="fk_shown_turn", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("turn", "position"),
    )
    op.create_index("ix_shown_picture", "shown", ["picture"])


def downgrade() -> None:
    """Remove them."""
    for name in "shown labels flags answers votes turns settings pictures excluded battles".split():
        op.drop_table(name)
