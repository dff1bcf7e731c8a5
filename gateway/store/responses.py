"""Responses in the store: what was said before, what is kept of each, and the lists of their items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.store.database import Database
from gateway.store.records import find, items, look_for, now, remove
from gateway.store.shapes import Entry, Kept, Page
from gateway.store.tables import Item, Record
from mesh.errors import ErrorKind, MeshError, invalid

RESPONSE: Final = "response"
CONVERSATION: Final = "conversation"
# Lists of a record.
INPUT, OUTPUT, SAID = "input", "output", "said"


@dataclass(slots=True)
class Past:
    """What was said before a request: items as JSON, and the responses that they came with, the first one first."""

    items: list[bytes] = field(default_factory=list[bytes])
    chain: list[str] = field(default_factory=list[str])


class Responses:
    """Each method is one transaction, for one tenant, and raises MeshError (store_unavailable, not_found)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def past(self, tenant: str, previous: str | None, conversation: str | None) -> Past:
        """What was said before. Raises invalid_request if a response of it is gone, or has not ended."""
        if previous is None and conversation is None:
            return Past()
        async with self._database.reading() as session:
            if conversation is not None:
                record = await find(session, CONVERSATION, conversation, tenant)
                return Past(list(await _bodies(session, [record.id])))
            assert previous is not None
            return await self._chain(session, tenant, previous)

    async def _chain(self, session: AsyncSession, tenant: str, previous: str) -> Past:
        try:
            record = await find(session, RESPONSE, previous, tenant)
        except MeshError:
            raise _no_previous(previous) from None
        if record.alive_at is not None:
            text = f"'previous_response_id' is '{previous}', which is still {record.status}"
            raise invalid("previous_response_id", text)
        chain: list[str] = [*record.state.get("chain", ()), record.id]
        wanted = select(func.count()).where(Record.id.in_(chain), Record.tenant == tenant).select_from(Record)
        if await session.scalar(wanted) != len(chain):
            raise _no_previous(previous)
        return Past(list(await _bodies(session, chain)), chain)

    async def items(self, tenant: str, ids: Iterable[str]) -> dict[str, bytes]:
        """Items of the tenant by their ids, as JSON; those that there are not are left out.

        Other records have items of other kinds, such as the results of batches."""
        wanted = select(Item).join(Record, Record.id == Item.owner).where(Item.id.in_(list(ids)))
        wanted = wanted.where(Record.tenant == tenant, Record.kind.in_((RESPONSE, CONVERSATION)))
        async with self._database.reading() as session:
            found = await session.scalars(wanted.order_by(Item.number))
            return {item.id: item.body for item in found}

    async def keep(self, tenant: str, kept: Kept) -> None:
        """Keep a response that has ended, and continue its conversation. Once more does nothing."""
        async with self._database.writing() as session:
            if await session.scalar(select(Record.number).where(Record.id == kept.id)) is not None:
                return
            session.add(new_record(tenant, kept))
            await session.flush()
            session.add_all(new_items(kept.id, INPUT, kept.inputs))
            await finish(session, tenant, kept)

    async def read(self, tenant: str, response_id: str) -> bytes:
        """A response, as JSON."""
        async with self._database.reading() as session:
            return (await find(session, RESPONSE, response_id, tenant)).body

    async def remove(self, tenant: str, response_id: str) -> None:
        """Forget a response. What continues it cannot be continued any more."""
        async with self._database.writing() as session:
            await remove(session, RESPONSE, response_id, tenant)

    async def inputs(self, tenant: str, response_id: str, page: Page) -> tuple[list[Entry], bool]:
        """What a response answers, and whether there is more behind it."""
        async with self._database.reading() as session:
            record = await find(session, RESPONSE, response_id, tenant)
            found, more = await items(session, record, INPUT, page)
            return [Entry(item.id, item.body) for item in found], more


def new_record(tenant: str, kept: Kept, **state: Any) -> Record:
    """A response's record. `state`: what else is to be known of it."""
    return Record(
        id=kept.id,
        kind=RESPONSE,
        tenant=tenant,
        created_at=kept.created_at,
        changed_at=now(),
        status=kept.status,
        model=kept.model,
        details=kept.details,
        body=kept.body,
        state={"chain": list(kept.chain), "conversation": kept.conversation, **state},
    )


async def finish(session: AsyncSession, tenant: str, kept: Kept) -> None:
    """Add what a response has said, to it and to its conversation, unless that was removed meanwhile."""
    session.add_all(new_items(kept.id, OUTPUT, kept.outputs))
    if kept.conversation is not None:
        conversation = await look_for(session, CONVERSATION, kept.conversation, tenant, lock=True)
        if conversation is not None:
            conversation.changed_at = now()
            session.add_all(new_items(conversation.id, SAID, (*kept.inputs, *kept.outputs)))
    await session.flush()


async def _bodies(session: AsyncSession, owners: Sequence[str]) -> Sequence[bytes]:
    wanted = select(Item.body).where(Item.owner.in_(owners)).order_by(Item.number)
    return (await session.scalars(wanted)).all()


def new_items(owner: str, part: str, entries: Iterable[Entry]) -> list[Item]:
    """Rows of a list of a record."""
    return [Item(id=entry.id, owner=owner, part=part, body=entry.body) for entry in entries]


def _no_previous(response_id: str) -> MeshError:
    text = f"the previous response '{response_id[:100]}', or one before it, is not kept here"
    return MeshError(ErrorKind.PREVIOUS_NOT_FOUND, text, param="previous_response_id")
