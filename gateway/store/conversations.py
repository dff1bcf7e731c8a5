"""Conversations in the store: their items, and the client's own pairs."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select

from gateway.store.database import Database
from gateway.store.records import find, items, missing, now, remove
from gateway.store.responses import CONVERSATION, SAID, new_items
from gateway.store.shapes import Entry, Page, Talk
from gateway.store.tables import Item, Record


class Conversations:
    """Each method is one transaction, for one tenant, and raises MeshError (store_unavailable, not_found)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, tenant: str, talk: Talk, said: Sequence[Entry]) -> None:
        """A new one, with what was said so far."""
        async with self._database.writing() as session:
            record = Record(id=talk.id, kind=CONVERSATION, tenant=tenant, created_at=talk.created_at, changed_at=now())
            record.details = talk.details
            session.add(record)
            await session.flush()
            session.add_all(new_items(talk.id, SAID, said))

    async def read(self, tenant: str, conversation_id: str) -> Talk:
        """One of them."""
        async with self._database.reading() as session:
            return _talk(await find(session, CONVERSATION, conversation_id, tenant))

    async def update(self, tenant: str, conversation_id: str, details: dict[str, str]) -> Talk:
        """Replace the client's own pairs."""
        async with self._database.writing() as session:
            record = await find(session, CONVERSATION, conversation_id, tenant, lock=True)
            record.details, record.changed_at = details, now()
            return _talk(record)

    async def remove(self, tenant: str, conversation_id: str) -> None:
        """Forget one and its items."""
        async with self._database.writing() as session:
            await remove(session, CONVERSATION, conversation_id, tenant)

    async def add(self, tenant: str, conversation_id: str, said: Sequence[Entry]) -> str | None:
        """Add items at its end, or none of them if it has one of their ids, which is returned."""
        async with self._database.writing() as session:
            record = await find(session, CONVERSATION, conversation_id, tenant, lock=True)
            ids = [each.id for each in said]
            taken = await session.scalar(select(Item.id).where(Item.owner == record.id, Item.id.in_(ids)).limit(1))
            if taken is None:
                record.changed_at = now()
                session.add_all(new_items(conversation_id, SAID, said))
            return taken

    async def items(self, tenant: str, conversation_id: str, page: Page) -> tuple[list[Entry], bool]:
        """What was said, and whether there is more behind it."""
        async with self._database.reading() as session:
            record = await find(session, CONVERSATION, conversation_id, tenant)
            found, more = await items(session, record, SAID, page)
            return [Entry(item.id, item.body) for item in found], more

    async def item(self, tenant: str, conversation_id: str, item_id: str) -> bytes:
        """One item, as JSON."""
        async with self._database.reading() as session:
            record = await find(session, CONVERSATION, conversation_id, tenant)
            found = await session.scalar(select(Item.body).where(Item.owner == record.id, Item.id == item_id).limit(1))
            if found is None:
                raise missing("item", item_id)
            return found

    async def remove_item(self, tenant: str, conversation_id: str, item_id: str) -> Talk:
        """Forget one item; returns its conversation."""
        async with self._database.writing() as session:
            record = await find(session, CONVERSATION, conversation_id, tenant, lock=True)
            gone = delete(Item).where(Item.owner == record.id, Item.id == item_id).returning(Item.number)
            if not (await session.scalars(gone)).all():
                raise missing("item", item_id)
            record.changed_at = now()
            return _talk(record)


def _talk(record: Record) -> Talk:
    return Talk(record.id, record.created_at, record.details)
