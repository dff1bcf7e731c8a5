"""A worker's record, announcers and mirrors for the tests of the registry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from mesh.registry import WORKERS_PREFIX, Announcer, EtcdClient, EtcdOptions, decode, key_for, mirror, prefix_end
from mesh.v1.registry_pb2 import WORKER_STATE_READY, ServedModel, WorkerRecord

PREFIX = WORKERS_PREFIX.encode()


def make_record(worker_id: str = "w1", incarnation: str = "first", *, started: float | None = None) -> WorkerRecord:
    """A record as a worker writes it."""
    record = WorkerRecord(
        worker_id=worker_id,
        incarnation=incarnation,
        address="127.0.0.1:50051",
        models=[ServedModel(name="demo", fingerprint="f" * 64, context_length=4096)],
        slots=8,
        state=WORKER_STATE_READY,
        version="1",
    )
    record.started_at.FromNanoseconds(int((time.time() if started is None else started) * 1e9))
    return record


@asynccontextmanager
async def announced(
    options: EtcdOptions, record: WorkerRecord | None = None, *, ttl: int = 3
) -> AsyncGenerator[Announcer]:
    """An announcer that has registered. It does not hold up the loop, where a proxy or registry may be at work."""
    announcer = Announcer(options, record or make_record(), ttl=ttl)
    announcer.start()
    try:
        assert await asyncio.to_thread(announcer.wait_registered, 10), announcer.last_error
        yield announcer
    finally:
        await asyncio.to_thread(announcer.stop)


async def records(options: EtcdOptions) -> dict[str, WorkerRecord]:
    """The workers that etcd itself lists, read on a connection of its own."""
    async with EtcdClient(options) as client:
        listing = await client.range(PREFIX, prefix_end(PREFIX))
    found = [decode(kv.value) for kv in listing.kvs]
    return {record.worker_id: record for record in found}


async def key_value(options: EtcdOptions, worker_id: str = "w1") -> Any:
    """The KeyValue of a worker's key, as etcd has it, or None."""
    async with EtcdClient(options) as client:
        listing = await client.range(key_for(worker_id).encode())
    return listing.kvs[0] if listing.kvs else None


class Mirrored:
    """What a mirror has reported."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.changes: list[tuple[str, bytes | None]] = []
        self.states: list[bool] = []

    @property
    def synced(self) -> bool:
        """Whether it says that it is complete."""
        return bool(self.states) and self.states[-1]

    @property
    def workers(self) -> set[str]:
        """The worker ids it knows."""
        return {key.removeprefix(WORKERS_PREFIX) for key in self.values}

    def on_change(self, key: str, value: bytes | None) -> None:
        """For `mirror`."""
        self.changes.append((key, value))
        if value is None:
            del self.values[key]
        else:
            self.values[key] = value


@asynccontextmanager
async def mirrored(options: EtcdOptions, *, quiet: float = 0.5) -> AsyncGenerator[Mirrored]:
    """A mirror of the workers, which runs until the end of the block."""
    seen = Mirrored()
    async with (
        EtcdClient(options) as client,
        running(lambda: mirror(client, WORKERS_PREFIX, seen.on_change, on_state=seen.states.append, quiet=quiet)),
    ):
        yield seen


@asynccontextmanager
async def running(start: Callable[[], Any]) -> AsyncGenerator[asyncio.Task[None]]:
    """A coroutine in a task that is cancelled at the end of the block; its own failure fails the test."""
    task: asyncio.Task[None] = asyncio.create_task(start())
    try:
        yield task
    finally:
        if task.done():
            task.result()
        task.cancel()
        await asyncio.wait({task})
