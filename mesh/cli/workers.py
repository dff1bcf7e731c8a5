"""The workers in the registry, asked once."""

from __future__ import annotations

from mesh.errors import MeshError, invalid
from mesh.registry.client import EtcdClient, prefix_end, probe
from mesh.registry.options import EtcdOptions
from mesh.registry.records import WORKERS_PREFIX, decode
from mesh.v1.registry_pb2 import WorkerRecord


async def list_workers(options: EtcdOptions) -> list[WorkerRecord]:
    """All workers, by id; values that are no records are left out. Raises MeshError if the registry is away."""
    await probe(options, WORKERS_PREFIX)
    prefix = WORKERS_PREFIX.encode()
    async with EtcdClient(options) as client:
        items = (await client.range(prefix, prefix_end(prefix))).kvs
    records: list[WorkerRecord] = []
    for item in items:
        try:
            records.append(decode(item.value))
        except MeshError:
            continue
    return records


async def find_worker(options: EtcdOptions, name: str) -> WorkerRecord:
    """The worker of that id; or of that host:port, of which then nothing else is known. Raises MeshError."""
    host, _, port = name.rpartition(":")
    if host and port.isdigit():
        return WorkerRecord(address=name)
    records = await list_workers(options)
    for record in records:
        if record.worker_id == name:
            return record
    known = ", ".join(record.worker_id for record in records) or "none"
    raise invalid("worker", f"no worker '{name}' in the registry; there are: {known}")
