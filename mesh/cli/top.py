"""`mesh ctl top`: workers and gateways as they work, again and again."""

from __future__ import annotations

import asyncio
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException

import grpc.aio
import msgspec
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from mesh import wire
from mesh.cli.admin import RegistryConfig, admin
from mesh.cli.show import show
from mesh.cli.workers import list_workers
from mesh.config import option
from mesh.errors import MeshError, invalid
from mesh.v1 import admin_pb2, registry_pb2
from mesh.v1.registry_pb2 import WorkerRecord

_LIMIT = 2.0


@dataclass(frozen=True)
class TopConfig(RegistryConfig):
    """Watch workers and gateways at work."""

    gateways: str = option("", "URLs of gateways to watch as well, comma separated, such as http://127.0.0.1:8000.")
    api_key: str | None = option(
        None, "Key that may read the gateways' /metrics; better given by the environment.", secret=True
    )
    interval: float = option(2.0, "Seconds between two looks.", low=0.1, high=60)
    once: bool = option(False, "Look twice, print what is between, and end.")
    json: bool = option(False, "With --once: one JSON object.")


class WorkerRow(msgspec.Struct, omit_defaults=True):
    """A worker: rows of its batch, streams, share of the KV cache in use, tokens per second since the last look, and
    the share of all prompt tokens so far that its prefix cache had (None if its engine has none). `error`: why it does
    not answer."""

    worker: str
    state: str
    models: list[str]
    slots: int = 0
    running: int = 0
    waiting: int = 0
    paused: int = 0
    streams: int = 0
    kv_used: float = 0.0
    tokens_per_second: float | None = None
    cache_hit_share: float | None = None
    error: str = ""


class GatewayRow(msgspec.Struct, omit_defaults=True):
    """A gateway: requests under way, waiting for a worker with room, and ended per second since the last look."""

    gateway: str
    active: int = 0
    queued: int = 0
    requests_per_second: float | None = None
    registry_age: float = 0.0
    error: str = ""


class Frame(msgspec.Struct):
    """One look."""

    workers: list[WorkerRow]
    gateways: list[GatewayRow]


class Watch:
    """Looks, and remembers counters, since rates need two looks."""

    def __init__(self, config: TopConfig) -> None:
        self._config = config
        self._before: dict[str, tuple[float, float]] = {}

    async def look(self) -> Frame:
        """Raises MeshError if the registry is away; a worker or gateway that is has it in its row."""
        records = await list_workers(self._config.etcd_options())
        urls = [url.strip() for url in self._config.gateways.split(",") if url.strip()]
        workers = asyncio.gather(*(self._worker(record) for record in records))
        gateways = asyncio.gather(*(self._gateway(url) for url in urls))
        return Frame(list(await workers), list(await gateways))

    async def _worker(self, record: WorkerRecord) -> WorkerRow:
        state = registry_pb2.WorkerState.Name(record.state).removeprefix("WORKER_STATE_").lower()
        row = WorkerRow(record.worker_id, state, [model.name for model in record.models], record.slots)
        try:
            async with admin(self._config, record.address) as service:
                stats = await service.GetStats(admin_pb2.GetStatsRequest(), timeout=_LIMIT)
        except grpc.aio.AioRpcError as error:
            row.error = wire.from_rpc_error(error, "--tls-").message
            return row
        load, engine = stats.load, stats.engine
        row.running, row.waiting, row.paused = load.running, load.waiting, load.paused
        row.streams, row.kv_used = stats.live_streams, round(load.kv_used, 4)
        row.tokens_per_second = self._rate(f"{record.worker_id}/{stats.incarnation}", engine.get("output_tokens", 0))
        if "prefix_hit_tokens" in engine:
            row.cache_hit_share = round(engine["prefix_hit_tokens"] / max(1, engine["prompt_tokens"]), 4)
        return row

    async def _gateway(self, url: str) -> GatewayRow:
        row = GatewayRow(url)
        try:
            samples = await asyncio.to_thread(_scrape, url, self._config.api_key)
        except urllib.error.HTTPError as error:
            keyed = error.code in (401, 403)
            row.error = "needs an API key made with --metrics (--api-key)" if keyed else f"/metrics says {error.code}"
            return row
        except HTTPException:  # as of a worker's port
            row.error = "what answers there speaks no HTTP"
            return row
        except (OSError, ValueError) as error:
            row.error = str(getattr(error, "reason", error))  # not "<urlopen error …>"
            return row
        row.active = int(samples.get("mesh_gateway_active_requests", 0))
        row.queued = int(samples.get("mesh_gateway_queue_requests", 0))
        row.registry_age = samples.get("mesh_gateway_registry_age_seconds", 0.0)
        row.requests_per_second = self._rate(url, samples.get("mesh_gateway_requests_total", 0))
        return row

    def _rate(self, who: str, count: float) -> float | None:
        """Counts per second since the last look; None at the first."""
        now = time.monotonic()
        before = self._before.get(who)
        self._before[who] = now, count
        return None if before is None else round((count - before[1]) / (now - before[0]), 1)


def _scrape(url: str, key: str | None) -> Mapping[str, float]:
    """A gateway's metrics, summed over their labels. Raises OSError or ValueError."""
    request = urllib.request.Request(url.rstrip("/") + "/metrics", headers={"x-api-key": key} if key else {})
    with urllib.request.urlopen(request, timeout=_LIMIT) as response:
        text = response.read().decode()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("route", "/v1").startswith("/v1"):  # not the probes and scrapes
                found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


async def top(config: TopConfig) -> None:
    """Run the command until Ctrl-C, or once. Raises MeshError."""
    if config.json and not config.once:
        raise invalid("json", "--json needs --once")
    if any(not url.strip().startswith(("http://", "https://")) for url in config.gateways.split(",") if url.strip()):
        raise invalid("gateways", f"--gateways takes URLs that begin with http:// or https://, not '{config.gateways}'")
    watch = Watch(config)
    frame = await watch.look()
    if config.once:
        await asyncio.sleep(config.interval)
        frame = await watch.look()
        if config.json:
            print(msgspec.json.encode(frame).decode())
        else:
            for table in tables(frame):
                show(table)
        return
    console = Console(markup=False, emoji=False)  # see show
    if console.is_interactive:
        with Live(Group(*tables(frame)), console=console, screen=True, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(config.interval)
                live.update(await _next(watch), refresh=True)
    while True:  # into a pipe: one frame below the other
        for table in tables(frame):
            show(table)
        await asyncio.sleep(config.interval)
        frame = await watch.look()


async def _next(watch: Watch) -> Group:
    """The next frame, or why there is none: a registry that is away may come back."""
    try:
        return Group(*tables(await watch.look()))
    except MeshError as error:
        return Group(error.message)


def tables(frame: Frame) -> Sequence[Table]:
    """A frame for people."""
    workers = Table(box=None, header_style="bold")
    workers.add_column("worker", no_wrap=True)
    workers.add_column("state")
    workers.add_column("models")
    for name in ("running", "waiting", "paused", "slots", "streams", "KV", "tokens/s", "cache hits"):
        workers.add_column(name, justify="right")
    for row in frame.workers:
        counts = (row.running, row.waiting, row.paused, row.slots, row.streams)
        if row.error:  # nothing is known of it but what the registry says
            workers.add_row(row.worker, row.error, ", ".join(row.models), *("-" * (len(counts) + 3)))
            continue
        shares = (f"{row.kv_used:.0%}", _number(row.tokens_per_second), _share(row.cache_hit_share))
        workers.add_row(row.worker, row.state, ", ".join(row.models), *map(str, counts), *shares)
    if not frame.workers:
        workers.add_row("no workers")
    if not frame.gateways:
        return [workers]
    gateways = Table(box=None, header_style="bold")
    gateways.add_column("gateway", no_wrap=True)
    for name in ("active", "queued", "requests/s", "registry seen"):
        gateways.add_column(name, justify="right")
    for row in frame.gateways:
        if row.error:
            gateways.add_row(row.gateway, "-", "-", "-", row.error)
            continue
        age = f"{row.registry_age:.0f} s ago" if row.registry_age else "now"
        gateways.add_row(row.gateway, str(row.active), str(row.queued), _number(row.requests_per_second), age)
    return [workers, gateways]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
