"""What workers say of themselves in etcd: the key, and the value as JSON that people can read.

Key: `<prefix><worker id>`, by default `/mesh/v1/workers/<worker id>`.

A worker that restarts under the same id never fights the lease it left behind: it writes the key under a new lease,
and a lease that expires deletes only the keys that are (still) under it. Two processes that live under one id, which
is a mistake, are told apart by `incarnation`; see `supersedes`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from google.protobuf import json_format

from mesh.errors import MeshError, invalid
from mesh.log import kv
from mesh.registry.client import EtcdClient
from mesh.registry.mirror import OnState, mirror
from mesh.v1.registry_pb2 import WorkerRecord

log = logging.getLogger(__name__)

WORKERS_PREFIX = "/mesh/v1/workers/"


def key_for(worker_id: str, prefix: str = WORKERS_PREFIX) -> str:
    """The key of a worker; raises MeshError if the id cannot be the last part of one."""
    if not worker_id or "/" in worker_id or not worker_id.isprintable():
        raise invalid("worker_id", f"'worker_id' must be printable text without '/', not {worker_id!r}")
    return prefix + worker_id


def encode(record: WorkerRecord) -> bytes:
    """The value of a worker's key: one line of JSON with the field names of registry.proto."""
    text = json_format.MessageToJson(record, preserving_proto_field_name=True, indent=None, ensure_ascii=False)
    return text.encode()


def decode(value: bytes) -> WorkerRecord:
    """Read a value; fields of newer versions are ignored. Raises MeshError if it is no record of a worker."""
    try:
        record = json_format.Parse(value, WorkerRecord(), ignore_unknown_fields=True)
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise invalid("record", f"not a worker's record: {error}") from None
    for field in ("worker_id", "address"):
        if not getattr(record, field):
            raise invalid("record", f"not a worker's record: '{field}' is missing")
    return record


def supersedes(record: WorkerRecord, other: WorkerRecord) -> bool:
    """Which of two processes under one worker id has the key: the one that started later."""
    return _age(record) > _age(other)


def _age(record: WorkerRecord) -> tuple[int, str]:
    return record.started_at.ToNanoseconds(), record.incarnation


async def watch_workers(
    client: EtcdClient,
    on_worker: Callable[[str, WorkerRecord | None], None],
    *,
    prefix: str = WORKERS_PREFIX,
    check: Callable[[WorkerRecord], None] | None = None,
    on_state: OnState | None = None,
    quiet: float = 5.0,
) -> None:
    """Call `on_worker(worker_id, record)` for each worker and each change of one (None: gone), for ever.

    `on_state` and `quiet` as in `mirror`. A value that is no record, or one that `check` refuses with MeshError, is
    logged and skipped: what was known of that worker before stays.
    """
    known: set[str] = set()

    def on_change(key: str, value: bytes | None) -> None:
        worker_id = key.removeprefix(prefix)
        if value is None:
            if worker_id in known:
                known.discard(worker_id)
                on_worker(worker_id, None)
            return
        try:
            record = decode(value)
            if record.worker_id != worker_id:
                raise invalid("worker_id", f"it says that it is the worker {record.worker_id!r}")
            if check is not None:
                check(record)
        except MeshError as error:
            log.warning("skipped a key of the registry", extra=kv(key=key, why=error.message))
            return
        known.add(worker_id)
        on_worker(worker_id, record)

    await mirror(client, prefix, on_change, on_state=on_state, quiet=quiet)
