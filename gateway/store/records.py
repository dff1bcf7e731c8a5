"""Finding, listing and removing records. A tenant finds its own alone: those of others do not exist for it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import Select, delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.store.shapes import Page
from gateway.store.tables import Item, Record
from mesh.errors import ErrorKind, MeshError, invalid

Row = TypeVar("Row", Record, Item)


async def find(session: AsyncSession, kind: str, record_id: str, tenant: str, *, lock: bool = False) -> Record:
    """A record of a tenant; with `lock` nobody else changes it until the transaction ends. Raises not_found."""
    found = await look_for(session, kind, record_id, tenant, lock=lock)
    if found is None:
        raise missing(kind, record_id)
    return found


async def look_for(
    session: AsyncSession, kind: str, record_id: str, tenant: str, *, lock: bool = False
) -> Record | None:
    """The same, or None."""
    wanted = select(Record).where(Record.id == record_id, Record.kind == kind, Record.tenant == tenant)
    return await session.scalar(wanted.with_for_update() if lock else wanted)


async def remove(session: AsyncSession, kind: str, record_id: str, tenant: str) -> None:
    """Forget a record of a tenant and all that belongs to it. Raises not_found."""
    record = await find(session, kind, record_id, tenant)
    await session.execute(delete(Record).where(Record.number == record.number))


async def records(session: AsyncSession, kind: str, tenant: str, page: Page) -> tuple[Sequence[Record], bool]:
    """The records of a tenant, and whether there are more behind them. Raises invalid_request (after)."""
    wanted = select(Record).where(Record.tenant == tenant, Record.kind == kind)
    return await listed(session, Record, wanted, page)


async def items(session: AsyncSession, owner: Record, part: str, page: Page) -> tuple[Sequence[Item], bool]:
    """Items of a record, and whether there are more behind them. Raises invalid_request (after)."""
    wanted = select(Item).where(Item.owner == owner.id, Item.part == part)
    return await listed(session, Item, wanted, page)


async def listed(
    session: AsyncSession, table: type[Row], wanted: Select[Row], page: Page
) -> tuple[Sequence[Row], bool]:
    """One page of the rows that are wanted."""
    if page.after is not None:
        last = await session.scalar(wanted.where(table.id == page.after).with_only_columns(table.number).limit(1))
        if last is None:
            raise invalid("after", f"'after' is '{page.after[:100]}', which is not in this list")
        wanted = wanted.where(table.number < last if page.descending else table.number > last)
    order = table.number.desc() if page.descending else table.number.asc()
    found = (await session.scalars(wanted.order_by(order).limit(page.limit + 1))).all()
    return found[: page.limit], len(found) > page.limit


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


def missing(kind: str, record_id: str) -> MeshError:
    """There is no such record, or it is somebody else's."""
    return MeshError(ErrorKind.NOT_FOUND, f"there is no {kind} '{record_id[:100]}'", param="id")
