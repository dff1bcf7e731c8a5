"""Which batches this gateway works on: those that nobody works on, a few at a time.

The tenant with the fewest at work is next, with the batch that has not had a turn, or not for longest. A batch for
which there is no room, such as one whose model has no worker, gives way to one that waits for its turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.batches.files import inputs_in_use
from gateway.batches.shapes import ENDED
from gateway.batches.work import Shop, Work
from gateway.store.shapes import TakenOver, Waiting
from gateway.store.stillness import Stillness
from gateway.store.store import Store
from mesh.errors import MeshError
from mesh.log import kv

if TYPE_CHECKING:
    from gateway.store.batches import Batches

log = logging.getLogger(__name__)

# Batches at a time: one that is long does not keep others waiting, whose lines share the places with it.
AT_ONCE: Final = 8
_LOOK_SECONDS: Final = 5.0
_SWEEP_SECONDS: Final = 60.0


class Runner:
    """`run` until cancelled.

    `takeover`: seconds for which the store has to hear nothing from the gateway that works on a batch before this one
    does.
    """

    def __init__(self, store: Store, shop: Shop, *, takeover: float) -> None:
        self._store = store
        self._shop = shop
        self._owner = uuid.uuid4().hex
        self._wake = asyncio.Event()
        self._pause = min(_LOOK_SECONDS, takeover / 2)
        self._working: dict[str, Work] = {}
        self._tenants: Counter[str] = Counter()  # of these
        self._turns: dict[str, float] = {}  # when those that have not ended had their last turn
        self._stillness = Stillness(takeover)
        self._swept_at = 0.0

    def wake(self, batch_id: str = "") -> None:
        """Look for batches now, and what has become of this one."""
        self._wake.set()
        if batch_id in self._working:
            self._working[batch_id].look()

    async def run(self) -> None:
        """Look for batches, as long as there may be any: a gateway that nobody asks for any opens no store."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                if self._store.exists and not self._shop.draining():
                    await self._look(group)
                try:
                    async with asyncio.timeout(self._pause):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    async def _look(self, group: asyncio.TaskGroup) -> None:
        try:
            batches = await self._store.batches()
            now = time.monotonic()
            waiting = await batches.waiting(ENDED)
            self._turns = {each.id: self._turns[each.id] for each in waiting if each.id in self._turns}
            free = [each for each in self._stillness.free(waiting, now) if each.id not in self._working]
            while free and len(self._working) < AT_ONCE:
                free.remove(first := min(free, key=self._order))
                claimed = await batches.claim(first, self._owner)
                if claimed is not None:
                    self._turns[first.id] = now
                    self._begin(group, batches, first.id, *claimed)
            self._make_room(len(free), now)
            if now - self._swept_at >= _SWEEP_SECONDS:
                self._swept_at = now
                await self._sweep()
        except MeshError as error:
            log.warning("batches cannot be looked for", extra=kv(why=error.message))
        except Exception as error:  # a record that this version cannot read must not end the gateway
            log.error("batches cannot be looked for", exc_info=error)

    def _order(self, batch: Waiting) -> tuple[int, float]:
        return self._tenants[batch.tenant], self._turns.get(batch.id, -math.inf)

    def _make_room(self, wanted: int, now: float) -> None:
        """Let so many batches give way, as far as they are stuck and have had a turn for long enough."""
        for batch_id, work in list(self._working.items()):
            if wanted and work.stuck and now - self._turns.get(batch_id, now) >= self._pause:
                work.give_way()
                wanted -= 1

    def _begin(self, group: asyncio.TaskGroup, batches: Batches, batch_id: str, tenant: str, body: bytes) -> None:
        try:
            work = Work(self._shop, batches, self._owner, tenant, body)
        except msgspec.MsgspecError as error:
            log.error("a batch cannot be read", extra=kv(batch=batch_id), exc_info=error)
            return
        self._working[batch_id] = work
        self._tenants[tenant] += 1
        group.create_task(self._work(batches, batch_id, tenant, work))

    async def _work(self, batches: Batches, batch_id: str, tenant: str, work: Work) -> None:
        try:
            if not await work.run():
                await batches.release(batch_id, self._owner)
        except TakenOver:
            log.warning("another gateway works on a batch", extra=kv(batch=batch_id))
        except MeshError as error:
            # It stays claimed, and is tried again when it has stood still for long enough.
            log.warning("a batch cannot be worked on", extra=kv(batch=batch_id, why=error.message))
        except Exception as error:
            log.error("a batch failed for no reason that is known", extra=kv(batch=batch_id), exc_info=error)
        except asyncio.CancelledError:
            with contextlib.suppress(MeshError, TakenOver):
                await batches.release(batch_id, self._owner)
            raise
        finally:
            del self._working[batch_id]
            self._tenants[tenant] -= 1
            self.wake()

    async def _sweep(self) -> None:
        """Remove files that have expired, or were kept for long enough, and that no batch reads any more."""
        files = await self._store.files()
        gone = await files.expired(self._store.retention)
        if gone:
            in_use = await inputs_in_use(self._store)
            gone = [each for each in gone if each not in in_use]
        if gone:
            await files.forget(gone)
            for each in gone:
                await self._shop.contents.remove(each)
            log.info("files removed", extra=kv(files=len(gone)))
