"""The places for requests of batches on one gateway, which all of its batches share."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(eq=False)
class _Waiter:
    tenant: str
    batch: str
    turn: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Places:
    """So many at a time. A free one goes to the tenant that has the fewest, and of its batches to the one that has the
    fewest; of equals to who has waited for longest."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._of_tenants: Counter[str] = Counter()
        self._of_batches: Counter[str] = Counter()
        self._waiting: list[_Waiter] = []

    @asynccontextmanager
    async def one(self, tenant: str, batch: str) -> AsyncGenerator[None]:
        """Hold a place, once there is one."""
        waiter = _Waiter(tenant, batch)
        self._waiting.append(waiter)
        self._give()
        try:
            await waiter.turn
            yield
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            else:
                self._take_back(waiter)

    def _give(self) -> None:
        while self._free and self._waiting:
            first = min(self._waiting, key=lambda each: (self._of_tenants[each.tenant], self._of_batches[each.batch]))
            self._waiting.remove(first)
            self._free -= 1
            self._of_tenants[first.tenant] += 1
            self._of_batches[first.batch] += 1
            if not first.turn.done():  # it was cancelled, and gives it back
                first.turn.set_result(None)

    def _take_back(self, waiter: _Waiter) -> None:
        self._free += 1
        for counts, name in ((self._of_tenants, waiter.tenant), (self._of_batches, waiter.batch)):
            counts[name] -= 1
            if not counts[name]:
                del counts[name]
        self._give()
