"""Files in the store: what is known of each. Their contents are elsewhere."""

from __future__ import annotations

import time
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.store.database import Database
from gateway.store.records import find, listed, now, remove
from gateway.store.shapes import Entry, KeptFile, Page
from gateway.store.tables import Record
from mesh.errors import ErrorKind, MeshError

FILE: Final = "file"
_EXPIRES: Final = "expires_at"


class Files:
    """Each method is one transaction and raises MeshError (store_unavailable, not_found)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(self, tenant: str, file: KeptFile) -> None:
        """Keep a file whose content is there. Once more does nothing."""
        async with self._database.writing() as session:
            await add_file(session, tenant, file)

    async def read(self, tenant: str, file_id: str) -> bytes:
        """A file, as JSON."""
        async with self._database.reading() as session:
            record = await find(session, FILE, file_id, tenant)
        if record.state.get(_EXPIRES, time.time() + 1) <= time.time():
            raise MeshError(ErrorKind.NOT_FOUND, f"the file '{file_id}' has expired", param="id")
        return record.body

    async def list(self, tenant: str, purpose: str | None, page: Page) -> tuple[list[Entry], bool]:
        """Files, and whether there are more behind them."""
        wanted = select(Record).where(Record.tenant == tenant, Record.kind == FILE)
        if purpose is not None:
            wanted = wanted.where(Record.status == purpose)
        async with self._database.reading() as session:
            found, more = await listed(session, Record, wanted, page)
            return [Entry(record.id, record.body) for record in found], more

    async def remove(self, tenant: str, file_id: str) -> None:
        """Forget a file."""
        async with self._database.writing() as session:
            await remove(session, FILE, file_id, tenant)

    async def expired(self, retention: float) -> list[str]:
        """The ids of those that have expired, or are older than `retention` seconds (0: none is too old)."""
        oldest = time.time() - retention if retention else 0
        async with self._database.reading() as session:
            found = await session.execute(select(Record.id, Record.changed_at, Record.state).where(Record.kind == FILE))
            times = [(each.id, each.changed_at, each.state.get(_EXPIRES)) for each in found]
        return [name for name, changed, end in times if changed < oldest or (end is not None and end <= time.time())]

    async def forget(self, ids: list[str]) -> None:
        """Forget files, whoever's they are."""
        async with self._database.writing() as session:
            await session.execute(delete(Record).where(Record.kind == FILE, Record.id.in_(ids)))


async def add_file(session: AsyncSession, tenant: str, file: KeptFile) -> None:
    """Within a transaction of somebody else: see `Files.keep`. The purpose is the record's status, to be found by."""
    if await session.scalar(select(Record.number).where(Record.id == file.id)) is not None:
        return
    state = {} if file.expires_at is None else {_EXPIRES: file.expires_at}
    record = Record(id=file.id, kind=FILE, tenant=tenant, created_at=file.created_at, changed_at=now())
    record.status, record.body, record.state = file.purpose, file.body, state
    session.add(record)
