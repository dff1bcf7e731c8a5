"""The tables. Times are seconds since 1970.

A record is what the API calls an object: a response, a conversation, a stored chat completion. All records are in one
table, so that who may see them, how long they are kept and how they are listed is the same for all. What belongs to one
record (its items, its events) goes with it.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, LargeBinary, MetaData, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# Counted up by the database, also by SQLite, which does that for INTEGER alone.
_NUMBER: Final = BigInteger().with_variant(Integer, "sqlite")
ID_LENGTH: Final = 128


class Table(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(
        naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "fk": "fk_%(table_name)s_%(column_0_name)s"}
    )


class Record(Table):
    """One object of the API. `tenant` is the id of the API key that made it, empty without keys; another does not see
    it. `number` counts up in the order in which records were made. `details` are the client's own pairs (`metadata`).

    `alive_at` is set while a gateway works on it, and counted up by that gateway: when it stands still, the gateway is
    gone.
    """

    __tablename__ = "records"
    __table_args__ = (Index(None, "tenant", "kind", "number"), Index(None, "changed_at"), Index(None, "alive_at"))

    number: Mapped[int] = mapped_column(_NUMBER, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(ID_LENGTH), unique=True)
    kind: Mapped[str] = mapped_column(String(32))
    tenant: Mapped[str] = mapped_column(String(64), default="")
    created_at: Mapped[int] = mapped_column(BigInteger)
    changed_at: Mapped[int] = mapped_column(BigInteger)
    alive_at: Mapped[float | None] = mapped_column(default=None)
    status: Mapped[str] = mapped_column(String(32), default="")
    model: Mapped[str] = mapped_column(String(256), default="")
    details: Mapped[dict[str, str]] = mapped_column(JSON, default=dict)
    # The object as JSON, and what else is to be known of it.
    body: Mapped[bytes] = mapped_column(LargeBinary, default=b"{}")
    state: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)


class Item(Table):
    """A part of a record, such as a message of a conversation, in order of `number`. `part` says which list of the
    record it belongs to."""

    __tablename__ = "items"
    __table_args__ = (Index(None, "owner", "part", "number"), Index(None, "id"))

    number: Mapped[int] = mapped_column(_NUMBER, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(ID_LENGTH))
    owner: Mapped[str] = mapped_column(ForeignKey("records.id", ondelete="CASCADE"))
    part: Mapped[str] = mapped_column(String(16))
    body: Mapped[bytes] = mapped_column(LargeBinary)


class Event(Table):
    """An event of a stream that can be read again, as the client gets it."""

    __tablename__ = "events"

    owner: Mapped[str] = mapped_column(ForeignKey("records.id", ondelete="CASCADE"), primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    data: Mapped[bytes] = mapped_column(LargeBinary)
