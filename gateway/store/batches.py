"""Batches in the store: which gateway works on each, and the results of their lines.

A gateway that works on a batch has claimed it, and counts up `alive_at` with each save. When that stands still, another
one claims it. Whoever saves must still have it: so each line's result is kept once, whatever happens to gateways.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.store.database import Database
from gateway.store.files import add_file
from gateway.store.records import find, now, records
from gateway.store.shapes import Entry, KeptBatch, KeptFile, Page, Result, TakenOver, Waiting
from gateway.store.tables import Item, Record

BATCH: Final = "batch"
_OWNER: Final = "owner"
_PLACE: Final = "{:09d}"  # of a line; in order as text too

Edit = Callable[[bytes], KeptBatch]
"""What becomes of a batch, which is given as JSON."""


class Batches:
    """Each method is one transaction and raises MeshError (store_unavailable, not_found)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, tenant: str, batch_id: str, batch: KeptBatch, details: dict[str, str]) -> None:
        """Keep a new batch, for whoever claims it."""
        record = Record(id=batch_id, kind=BATCH, tenant=tenant, created_at=now(), changed_at=now(), details=details)
        record.status, record.body = batch.status, batch.body
        async with self._database.writing() as session:
            session.add(record)

    async def read(self, tenant: str, batch_id: str) -> bytes:
        """A batch, as JSON."""
        async with self._database.reading() as session:
            return (await find(session, BATCH, batch_id, tenant)).body

    async def list(self, tenant: str, page: Page) -> tuple[list[Entry], bool]:
        """Batches, and whether there are more behind them."""
        async with self._database.reading() as session:
            found, more = await records(session, BATCH, tenant, page)
            return [Entry(record.id, record.body) for record in found], more

    async def edit(self, tenant: str, batch_id: str, edit: Edit) -> bytes:
        """Change a batch, and return it; whoever works on it notices with its next save."""
        async with self._database.writing() as session:
            record = await find(session, BATCH, batch_id, tenant, lock=True)
            _change(record, edit)
            return record.body

    # For whoever works on them

    async def waiting(self, ended: Sequence[str]) -> list[Waiting]:
        """Those whose status is none of `ended`, the first one first."""
        wanted = select(Record.id, Record.alive_at, Record.tenant).order_by(Record.number)
        wanted = wanted.where(Record.kind == BATCH, Record.status.not_in(ended))
        async with self._database.reading() as session:
            return [Waiting(each.id, each.alive_at, each.tenant) for each in await session.execute(wanted)]

    async def under_way(self, ended: Sequence[str]) -> list[bytes]:
        """All batches whose status is none of `ended`, whoever's they are, as JSON."""
        wanted = select(Record.body).where(Record.kind == BATCH, Record.status.not_in(ended))
        async with self._database.reading() as session:
            return list(await session.scalars(wanted))

    async def claim(self, seen: Waiting, owner: str) -> tuple[str, bytes] | None:
        """Take a batch to work on: its tenant, and itself. None if it is not as it was seen."""
        async with self._database.writing() as session:
            record = await session.scalar(select(Record).where(Record.id == seen.id).with_for_update())
            if record is None or record.alive_at != seen.alive_at:
                return None
            record.alive_at = time.time()
            record.state = {_OWNER: owner}
            return record.tenant, record.body

    async def finished(self, batch_id: str) -> set[int]:
        """The lines that have results."""
        async with self._database.reading() as session:
            return {int(place) for place in await session.scalars(select(Item.id).where(Item.owner == batch_id))}

    async def save(
        self, batch_id: str, owner: str, results: Sequence[Result], edit: Edit, files: Sequence[KeptFile] = ()
    ) -> bytes:
        """Keep results and files of a batch and change it, all or nothing; returns it.

        Raises TakenOver if another gateway has claimed it meanwhile, or it was removed.
        """
        async with self._database.writing() as session:
            record = await self._own(session, batch_id, owner)
            session.add_all(
                Item(id=_PLACE.format(each.line), owner=batch_id, part=each.part, body=each.body) for each in results
            )
            for file in files:
                await add_file(session, record.tenant, file)
            _change(record, edit)
            return record.body

    async def results(self, batch_id: str, part: str, behind: int, limit: int) -> list[Result]:
        """Some results of a part, those of the lines behind one, in order."""
        wanted = select(Item).where(Item.owner == batch_id, Item.part == part, Item.id > _PLACE.format(behind))
        async with self._database.reading() as session:
            found = await session.scalars(wanted.order_by(Item.id).limit(limit))
            return [Result(int(item.id), item.part, item.body) for item in found]

    async def release(self, batch_id: str, owner: str) -> None:
        """Let others have a batch. Raises TakenOver if they have it."""
        async with self._database.writing() as session:
            (await self._own(session, batch_id, owner)).alive_at = None

    async def _own(self, session: AsyncSession, batch_id: str, owner: str) -> Record:
        record = await session.scalar(select(Record).where(Record.id == batch_id).with_for_update())
        if record is None or record.state.get(_OWNER) != owner:
            raise TakenOver(batch_id)
        record.alive_at = time.time()
        return record


def _change(record: Record, edit: Edit) -> None:
    changed = edit(record.body)
    record.body, record.status, record.changed_at = changed.body, changed.status, now()
