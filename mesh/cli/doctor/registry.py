"""The registry and who is in it: reach, space, clocks, workers that do not answer, models that differ."""

from __future__ import annotations

import asyncio
import ssl
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection

import grpc.aio

from mesh import wire
from mesh.cli.admin import RegistryConfig, admin
from mesh.cli.doctor.finding import Finding
from mesh.cli.workers import list_workers
from mesh.counted import counted
from mesh.errors import MeshError
from mesh.registry import WORKERS_PREFIX, EtcdClient, EtcdError, EtcdOptions
from mesh.v1 import admin_pb2
from mesh.v1.registry_pb2 import WorkerRecord
from mesh.wire import Tls

_LIMIT = 3.0
_ASKED = 5
_SLOW = 0.1
# etcd refuses writes beyond its quota, which is 2 GiB unless it is told otherwise.
_QUOTA = 2 * 1024**3
_OLDEST = (3, 4)
_SKEW_WARN, _SKEW_FAIL = 1.0, 5.0
_SYNCHRONIZE = "synchronize all clocks: chronyd or systemd-timesyncd"


async def etcd(options: EtcdOptions) -> list[Finding]:
    """Each endpoint by itself: a client goes to the next one, so that nobody notices that one is away."""
    found = await asyncio.gather(*(_endpoint(replace(options, endpoints=(each,))) for each in options.endpoints))
    return [finding for each in found for finding in each]


async def _endpoint(options: EtcdOptions) -> list[Finding]:
    options = replace(options, timeout=_LIMIT)
    try:
        async with EtcdClient(options) as client:
            status = await client.status()
            took = [await _timed(client) for _ in range(_ASKED)]
    except (EtcdError, MeshError) as error:
        remedy = "see that etcd runs there, that its name and port are right, and that no firewall is between"
        return [Finding("etcd", "fail", str(error), remedy)]
    middle = statistics.median(took)
    said = f"{options.where}: etcd {status.version}, {middle * 1000:.1f} ms a read, {status.db_size / 1024**2:.0f} MiB"
    found = [Finding("etcd", "fail", f"{options.where}: {error}", _space_remedy(error)) for error in status.errors]
    if middle > _SLOW:
        found.append(Finding("etcd", "warn", said, "a faster disk for etcd, and a nearer one"))
    if status.db_size > 0.75 * _QUOTA:
        found.append(Finding("etcd", "warn", said, "etcdctl compact and defrag, or a larger --quota-backend-bytes"))
    if _version(status.version) < _OLDEST:
        found.append(Finding("etcd", "warn", said, "tested with 3.5"))
    if not status.leader and "embedded" not in status.version:
        found.append(Finding("etcd", "fail", f"{options.where} has no leader", "bring the majority of members back"))
    return found or [Finding("etcd", "ok", said)]


async def _timed(client: EtcdClient) -> float:
    began = time.perf_counter()
    await client.range(WORKERS_PREFIX.encode(), count_only=True)
    return time.perf_counter() - began


def _space_remedy(error: str) -> str:
    return "etcdctl compact, defrag, then alarm disarm" if "NOSPACE" in error else "etcdctl alarm list, endpoint status"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.partition("+")[0].partition("-")[0].split(".") if part.isdigit())


async def etcd_clocks(options: EtcdOptions) -> list[Finding]:
    """The clocks of etcd's members, by the date of their HTTP answers, which has whole seconds."""
    dates = await asyncio.gather(*(asyncio.to_thread(_date, each, options.tls) for each in options.endpoints))
    told = [
        (where, date - time.time()) for where, date in zip(options.endpoints, dates, strict=True) if date is not None
    ]
    return [etcd_clock(where, ahead) for where, ahead in told]


def etcd_clock(where: str, ahead: float) -> Finding:
    """What the clock of a member says that is so many seconds ahead of ours, give or take one."""
    if abs(ahead) <= 1 + _SKEW_WARN:
        return Finding("clocks", "ok", f"the clock of etcd at {where} is right to a second or two")
    found = f"the clock of etcd at {where} is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    return Finding("clocks", "fail" if abs(ahead) >= _SKEW_FAIL else "warn", found, _SYNCHRONIZE)


def _date(where: str, tls: Tls | None) -> float | None:
    """Seconds since 1970 by a member's clock; None from what speaks no HTTP, as a registry of ours."""
    try:
        if tls is None:
            connection = HTTPConnection(where, timeout=_LIMIT)
        else:
            context = ssl.create_default_context(cafile=tls.ca)
            if tls.cert is not None:
                context.load_cert_chain(tls.cert, tls.key)
            connection = HTTPSConnection(where, timeout=_LIMIT, context=context)
        with closing(connection):
            connection.request("GET", "/version")
            date = connection.getresponse().getheader("date")
        return None if date is None else parsedate_to_datetime(date).timestamp()
    except (OSError, HTTPException, ValueError):
        return None


@dataclass(frozen=True)
class Answer:
    """What a worker said: the seconds by which its clock is ahead of ours (None: it is too old to tell), or why it did
    not answer."""

    record: WorkerRecord
    ahead: float | None = None
    error: str = ""


async def ask_workers(config: RegistryConfig, options: EtcdOptions) -> list[Answer]:
    """Ask each worker in that registry for its statistics; raises MeshError if the registry is away."""
    records = await list_workers(options)
    return list(await asyncio.gather(*(_ask(config, record) for record in records)))


async def _ask(config: RegistryConfig, record: WorkerRecord) -> Answer:
    try:
        async with admin(config, record.address) as service:
            before = time.time()
            stats = await service.GetStats(admin_pb2.GetStatsRequest(), timeout=_LIMIT)
            after = time.time()
    except (grpc.aio.AioRpcError, MeshError) as error:
        said = error.message if isinstance(error, MeshError) else wire.from_rpc_error(error, "--tls-").message
        return Answer(record, error=said or "no answer")
    if stats.incarnation != record.incarnation:
        return Answer(record, error=f"another process answers there, worker '{stats.worker_id}'")
    if not stats.HasField("now"):
        return Answer(record)
    # It told the time between our two looks at the clock.
    told = stats.now.ToNanoseconds() / 1e9
    return Answer(record, ahead=told - after if told > after else min(0.0, told - before))


def workers(answers: Sequence[Answer]) -> list[Finding]:
    """Records without a worker that answers."""
    found = [
        Finding(
            "workers", "fail", f"{each.record.worker_id} at {each.record.address}: {each.error}", _remedy(each.error)
        )
        for each in answers
        if each.error
    ]
    if found:
        return found
    if not answers:
        return [Finding("workers", "warn", "the registry lists no worker", "start one: mesh-worker --etcd URL")]
    return [Finding("workers", "ok", f"{counted(len(answers), 'worker')} answered at the announced addresses")]


def _remedy(error: str) -> str:
    if "another process" in error:
        return "two workers announce one address: look at --advertise, and at ports that were given again"
    if "join token" in error or "unauthorized" in error.lower():
        return "give the --join-token that the workers have (MESH_DOCTOR_JOIN_TOKEN)"
    return "if it is dead, its record goes within its --ttl; else see --advertise, firewalls and --tls-ca"


def clocks(answers: Iterable[Answer]) -> list[Finding]:
    """Clocks of workers beside ours."""
    told = [(each.record.worker_id, each.ahead) for each in answers if each.ahead is not None]
    if not told:
        return [Finding("clocks", "skip", "no worker told its time")]
    worst, ahead = max(told, key=lambda each: abs(each[1]))
    found = f"the clock of {worst} is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    if abs(ahead) < _SKEW_WARN:
        near = f"the clocks of {counted(len(told), 'worker')} are within {_SKEW_WARN:g} s of this machine's"
        return [Finding("clocks", "ok", near)]
    status = "fail" if abs(ahead) >= _SKEW_FAIL else "warn"
    return [Finding("clocks", status, found, _SYNCHRONIZE)]


def fingerprints(records: Iterable[WorkerRecord]) -> list[Finding]:
    """Models that are not the same on all of their workers, which cannot take answers over from each other."""
    by_model: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        for model in record.models:
            by_model[model.name][model.fingerprint].append(record.worker_id)
    found = [
        Finding(
            "models",
            "warn",
            f"{name} differs: " + "; ".join(f"{print_} on {', '.join(ids)}" for print_, ids in prints.items()),
            "the same weights, tokenizer, template and --dtype on all; else an answer ends with its worker",
        )
        for name, prints in sorted(by_model.items())
        if len(prints) > 1
    ]
    return found or [Finding("models", "ok", f"{counted(len(by_model), 'model')}, the same on all workers")]
