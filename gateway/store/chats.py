"""Chat completions in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.store.database import Database
from gateway.store.records import find, items, listed, now, remove
from gateway.store.responses import new_items
from gateway.store.shapes import Entry, Page, Talk
from gateway.store.tables import Record

CHAT: Final = "chat completion"
_ASKED: Final = "asked"


class Chats:
    """Each method is one transaction, for one tenant, and raises MeshError (store_unavailable, not_found)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(self, tenant: str, chat: Talk, model: str, body: bytes, messages: Sequence[Entry]) -> None:
        """Keep an answer and what it answers. Once more does nothing."""
        async with self._database.writing() as session:
            if await session.scalar(select(Record.number).where(Record.id == chat.id)) is not None:
                return
            record = Record(id=chat.id, kind=CHAT, tenant=tenant, created_at=chat.created_at, changed_at=now())
            record.model, record.details, record.body = model, chat.details, body
            session.add(record)
            await session.flush()
            session.add_all(new_items(chat.id, _ASKED, messages))

    async def read(self, tenant: str, chat_id: str) -> tuple[bytes, dict[str, str]]:
        """An answer as JSON, and the client's own pairs."""
        async with self._database.reading() as session:
            record = await find(session, CHAT, chat_id, tenant)
            return record.body, record.details

    async def update(self, tenant: str, chat_id: str, details: dict[str, str]) -> bytes:
        """Replace the client's own pairs; returns the answer as JSON."""
        async with self._database.writing() as session:
            record = await find(session, CHAT, chat_id, tenant, lock=True)
            record.details, record.changed_at = details, now()
            return record.body

    async def remove(self, tenant: str, chat_id: str) -> None:
        """Forget one."""
        async with self._database.writing() as session:
            await remove(session, CHAT, chat_id, tenant)

    async def list(
        self, tenant: str, page: Page, model: str | None, details: Mapping[str, str]
    ) -> tuple[list[tuple[bytes, dict[str, str]]], bool]:
        """Answers of a model, or of any, with all of these pairs; and whether there are more behind them."""
        wanted = select(Record).where(Record.tenant == tenant, Record.kind == CHAT)
        if model is not None:
            wanted = wanted.where(Record.model == model)
        async with self._database.reading() as session:
            for key, value in details.items():
                wanted = wanted.where(_has_pair(session, key, value))
            found, more = await listed(session, Record, wanted, page)
            return [(record.body, record.details) for record in found], more

    async def messages(self, tenant: str, chat_id: str, page: Page) -> tuple[list[Entry], bool]:
        """What an answer answers, and whether there is more behind it."""
        async with self._database.reading() as session:
            record = await find(session, CHAT, chat_id, tenant)
            found, more = await items(session, record, _ASKED, page)
            return [Entry(item.id, item.body) for item in found], more


def _has_pair(session: AsyncSession, key: str, value: str) -> ColumnElement[bool]:
    """Whether a record has this pair. Not by a path into its JSON: keys may hold what has a meaning in paths."""
    each = func.json_each if session.get_bind().dialect.name == "sqlite" else func.json_each_text
    pair = each(Record.details).table_valued("key", "value")
    return select(pair.c.key).where(pair.c.key == key, pair.c.value == value).correlate(Record).exists()
