"""Responses in the background: their events as they come, and who works on them.

A gateway that works on one says so with every write, at least each second. One of which nothing was heard for a while
belongs to whoever claims it first.
"""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from typing import Any, Final, cast

import msgspec
from sqlalchemy import CursorResult, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.store.database import Database
from gateway.store.records import find, now
from gateway.store.responses import INPUT, RESPONSE, finish, new_items, new_record
from gateway.store.shapes import Entry, Job, Kept, Told, Waiting
from gateway.store.tables import Event, Item, Record
from mesh.errors import invalid

_NOBODY: Final = 0.0  # as `alive_at`: it goes on, but nobody works on it


class Background:
    """Each method is one transaction, and raises MeshError (store_unavailable)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, job: Job, kept: Kept, told: bytes) -> None:
        """Keep a new one with its first events."""
        state = {"request": job.request.decode(), "wire": b64encode(job.wire).decode(), "model": "", "takeovers": 0}
        async with self._database.writing() as session:
            record = new_record(job.tenant, kept, **state)
            record.alive_at = time.time()
            session.add(record)
            await session.flush()
            session.add_all(new_items(job.id, INPUT, kept.inputs))
            session.add(Event(owner=job.id, sequence=0, data=told))

    async def add(self, job: Job, told: Told, body: bytes) -> bool:
        """Say that it is worked on, and what has been said; False if nobody wants it any more."""
        async with self._database.writing() as session:
            record = await _live(session, job)
            if record is None:
                return False
            record.alive_at = time.time()
            record.changed_at = now()
            if told.data:
                record.status, record.body = "in_progress", body
                session.add(Event(owner=job.id, sequence=told.first, data=told.data))
            if job.model and not record.state["model"]:
                record.state = {**record.state, "model": job.model.hex()}
            return True

    async def finish(self, job: Job, told: Told, kept: Kept) -> None:
        """Its end, unless it has been cancelled or removed."""
        async with self._database.writing() as session:
            record = await _live(session, job)
            if record is None:
                return
            record.alive_at, record.changed_at = None, now()
            record.status, record.body = kept.status, kept.body
            record.state = {name: record.state[name] for name in ("chain", "conversation")}
            session.add(Event(owner=job.id, sequence=told.first, data=told.data))
            inputs = select(Item).where(Item.owner == job.id, Item.part == INPUT).order_by(Item.number)
            kept.inputs = [Entry(item.id, item.body) for item in await session.scalars(inputs)]
            await finish(session, job.tenant, kept)

    async def cancel(self, tenant: str, response_id: str) -> bytes:
        """End it as cancelled, if it has not ended; returns the response. Raises not_found, and invalid_request for one
        that is not in the background."""
        async with self._database.writing() as session:
            record = await find(session, RESPONSE, response_id, tenant, lock=True)
            body: dict[str, Any] = msgspec.json.decode(record.body)
            if not body["background"]:
                raise invalid("id", "Cannot cancel a synchronous response.")
            if record.alive_at is not None:
                body["status"] = record.status = "cancelled"
                record.alive_at, record.changed_at = None, now()
                record.body = msgspec.json.encode(body)
            return record.body

    async def events(self, tenant: str, response_id: str, first: int) -> tuple[list[Told], bool]:
        """Its events from the ones that begin with this number on, and whether they are all. Raises not_found, and
        invalid_request for one that is not in the background."""
        async with self._database.reading() as session:
            record = await find(session, RESPONSE, response_id, tenant)
            wanted = select(Event).where(Event.owner == record.id, Event.sequence >= first).order_by(Event.sequence)
            found = [Told(event.sequence, event.data) for event in await session.scalars(wanted)]
            if not found and not first:
                raise invalid("stream", "'stream' needs a response that was made with 'background': true")
            return found, record.alive_at is None

    async def waiting(self) -> list[Waiting]:
        """Those that have not ended."""
        wanted = select(Record.id, Record.alive_at).where(Record.alive_at.is_not(None), Record.kind == RESPONSE)
        async with self._database.reading() as session:
            return [Waiting(each.id, each.alive_at or None) for each in await session.execute(wanted)]

    async def claim(self, seen: Waiting) -> Job | None:
        """Take one over to work on it. None if it is not as it was seen."""
        wanted = select(Record).where(Record.id == seen.id, Record.alive_at == (seen.alive_at or _NOBODY))
        async with self._database.writing() as session:
            record = await session.scalar(wanted)
            return None if record is None else await _claimed(session, record)

    async def release(self, job: Job) -> None:
        """Let another gateway go on with it."""
        async with self._database.writing() as session:
            record = await _live(session, job)
            if record is not None:
                record.alive_at = _NOBODY


async def _live(session: AsyncSession, job: Job) -> Record | None:
    """The record of one that is to be worked on, locked; None also if another gateway has taken it over, because this
    one has stood still."""
    wanted = select(Record).where(Record.id == job.id, Record.alive_at.is_not(None))
    record = await session.scalar(wanted.with_for_update())
    return record if record is not None and record.state["takeovers"] == job.takeovers else None


async def _claimed(session: AsyncSession, record: Record) -> Job | None:
    state = {**record.state, "takeovers": record.state["takeovers"] + 1}
    ours = update(Record).where(Record.number == record.number, Record.alive_at == record.alive_at)
    done = await session.execute(
        ours.values(alive_at=time.time(), state=state).execution_options(synchronize_session=False)
    )
    if not cast("CursorResult[Any]", done).rowcount:
        return None
    last = select(Event).where(Event.owner == record.id).order_by(Event.sequence.desc()).limit(1)
    event = await session.scalar(last)
    return Job(
        id=record.id,
        tenant=record.tenant,
        request=state["request"].encode(),
        wire=b64decode(state["wire"]),
        body=record.body,
        model=bytes.fromhex(state["model"]),
        next=Told(event.sequence, event.data).end if event is not None else 0,
        takeovers=state["takeovers"],
    )
