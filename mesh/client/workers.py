"""The workers that this client knows, from the registry or by their addresses, and the choice among them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Collection, Iterable

from mesh.client.worker import Worker
from mesh.dial import Dial
from mesh.errors import invalid
from mesh.join import JoinToken
from mesh.registry import WORKERS_PREFIX, EtcdClient, EtcdOptions, probe, watch_workers
from mesh.v1.inference_pb2 import Capability
from mesh.v1.registry_pb2 import ServedModel, WorkerRecord

log = logging.getLogger(__name__)

# Seconds for which a worker that has vanished from the registry is asked as a last choice: an etcd that came back empty
# has not lost the workers.
_GRACE = 30.0
_FIRST_LISTING_LIMIT = 10.0


class Workers:
    """`await start()`, then `close()`. With `etcd` they are kept as the registry tells; `addresses` are host:port."""

    def __init__(
        self,
        dial: Dial,
        *,
        etcd: EtcdOptions | None,
        addresses: Iterable[str],
        client: str,
        join: JoinToken | None,
        sessions: bool,
    ) -> None:
        self._dial = dial
        self._etcd = etcd
        self._addresses = tuple(addresses)
        self._client = client
        self._join = join
        self._sessions = sessions
        self._workers: dict[str, Worker] = {}
        # Of workers that are not there any more; closed once nothing is on them.
        self._left: list[Worker] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Learn which there are. Raises MeshError if the registry cannot be asked."""
        for address in self._addresses:
            self._workers[address] = self._make(WorkerRecord(address=address))
        if self._etcd is None:
            return
        await probe(self._etcd, WORKERS_PREFIX)
        listed = asyncio.Event()
        self._watch = asyncio.create_task(self._follow(self._etcd, listed))
        try:
            async with asyncio.timeout(_FIRST_LISTING_LIMIT):
                await listed.wait()
        except TimeoutError:
            await self.close()
            text = f"etcd at {self._etcd.where} did not list the workers within {_FIRST_LISTING_LIMIT:g} s"
            raise invalid("etcd", text) from None

    async def close(self) -> None:
        """End everything."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        for worker in (*self._workers.values(), *self._left):
            await worker.close()
        if self._closing:
            await asyncio.wait(self._closing)
        self._workers.clear()
        self._left.clear()

    def models(self) -> list[ServedModel]:
        """The models that are served, by name."""
        found = {name: model for worker in self._workers.values() for name, model in worker.models.items()}
        return [found[name] for name in sorted(found)]

    def knows(self, model: str, never: Collection[Worker]) -> bool:
        """Whether any worker serves it but these."""
        return any(worker.served(model) is not None for worker in self._workers.values() if worker not in never)

    def choose(
        self,
        model: str,
        *,
        fingerprint: str,
        needs: Collection[Capability],
        avoid: Collection[Worker],
        never: Collection[Worker],
    ) -> Worker | None:
        """The least busy worker that may be asked now; one of `avoid` only if there is no other, none of `never`."""
        now = asyncio.get_running_loop().time()
        ready = [worker for worker in self._workers.values() if not worker.draining and worker.rests_until <= now]
        candidates = [worker for worker in ready if worker not in never and _fits(worker, model, fingerprint, needs)]
        return min(
            candidates,
            key=lambda worker: (worker in avoid, worker.vanished_at is not None, worker.busy, random.random()),
            default=None,
        )

    async def change(self, limit: float) -> None:
        """Wait until there is news of the workers, at most so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._news.wait()

    async def _follow(self, etcd: EtcdOptions, listed: asyncio.Event) -> None:
        check = self._join.check_record if self._join is not None else None
        async with EtcdClient(etcd) as client:
            await watch_workers(
                client, self._on_worker, check=check, on_state=lambda complete: listed.set() if complete else None
            )

    def _on_worker(self, worker_id: str, record: WorkerRecord | None) -> None:
        """The registry has changed."""
        self._tidy()
        worker = self._workers.get(worker_id)
        if record is None:
            if worker is not None:
                worker.vanished_at = asyncio.get_running_loop().time()
            return
        if worker is None or worker.incarnation != record.incarnation:
            if worker is not None:
                self._left.append(worker)  # what is on it may still end
            self._workers[worker_id] = self._make(record)
        else:
            worker.vanished_at = None
            worker.update(record)
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _tidy(self) -> None:
        """Let go of workers that have been away for long, and of what is left of others."""
        limit = asyncio.get_running_loop().time() - _GRACE
        for worker_id, worker in list(self._workers.items()):
            if worker.vanished_at is not None and worker.vanished_at < limit:
                self._left.append(self._workers.pop(worker_id))
        for worker in [worker for worker in self._left if not worker.live]:
            self._left.remove(worker)
            task = asyncio.create_task(worker.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _make(self, record: WorkerRecord) -> Worker:
        return Worker(record, self._dial, client=self._client, join=self._join, sessions=self._sessions)


def _fits(worker: Worker, model: str, fingerprint: str, needs: Collection[Capability]) -> bool:
    served = worker.served(model)
    if served is None:
        return False
    if not served.fingerprint:
        return True  # only its address is known
    return (not fingerprint or served.fingerprint == fingerprint) and all(need in served.capabilities for need in needs)
