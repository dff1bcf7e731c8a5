"""`mesh ctl`: look at workers and operate them, and see to the API keys."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc.aio
from rich.table import Table

from mesh import wire
from mesh.cli import aliases, keys, routes
from mesh.cli.admin import RegistryConfig, admin
from mesh.cli.etcd import EtcdFlags
from mesh.cli.message import MessageConfig, message
from mesh.cli.show import duration, show
from mesh.cli.throughput.command import ThroughputConfig, throughput
from mesh.cli.top import TopConfig, top
from mesh.cli.workers import find_worker, list_workers
from mesh.config import fail, option, parse
from mesh.errors import MeshError, invalid
from mesh.registry import EtcdError, encode
from mesh.v1 import admin_pb2, admin_pb2_grpc, registry_pb2

_PROG = "mesh ctl"
_LIMIT = 5.0
# Reading a large adapter from a slow disk, or from the hub.
_LOAD_LIMIT = 600.0
_COUNTERS = (
    *("live_streams", "live_sessions", "streams_started", "streams_finished"),
    *("streams_cancelled", "streams_failed", "session_messages"),
)


@dataclass(frozen=True)
class WorkersConfig(EtcdFlags):
    """List the workers in the registry."""

    json: bool = option(False, "Print JSON: the records as they are in the registry.")


@dataclass(frozen=True)
class WorkerConfig(RegistryConfig):
    """The flags of what is asked of one worker."""

    worker: str = option("", "The worker's id in the registry, or its host:port.", positional=True)


@dataclass(frozen=True)
class StatsConfig(WorkerConfig):
    """Show a worker's counters."""

    json: bool = option(False, "Print JSON.")


@dataclass(frozen=True)
class DrainConfig(WorkerConfig):
    """Have a worker take no new requests and hand over those it has."""

    stop: bool = option(False, "End the process once it is empty.")


@dataclass(frozen=True)
class UndrainConfig(WorkerConfig):
    """Have a worker that drains take requests again, unless it was asked to end."""


@dataclass(frozen=True)
class AdaptersConfig(WorkerConfig):
    """List the LoRA adapters of a worker."""


@dataclass(frozen=True)
class LoadAdapterConfig(WorkerConfig):
    """Load a LoRA adapter on a worker."""

    adapter: str = option("", "name=path: the folder on the worker's machine, or the name on the hub.", positional=True)
    base: str = option("", "Model that it changes, where the worker serves several.")


@dataclass(frozen=True)
class UnloadAdapterConfig(WorkerConfig):
    """Have a worker take no more requests for an adapter."""

    adapter: str = option("", "The adapter's name.", positional=True)


async def _workers(config: WorkersConfig) -> None:
    records = await list_workers(config.etcd_options())
    if config.json:
        print(f"[{', '.join(encode(record).decode() for record in records)}]")
        return
    table = Table(box=None, header_style="bold")
    for name in ("worker", "state", "address", "models", "slots", "engine", "zone", "up", "version"):
        table.add_column(name)
    for record in records:
        state = registry_pb2.WorkerState.Name(record.state).removeprefix("WORKER_STATE_").lower()
        models = ", ".join(model.name for model in record.models)
        up = duration(time.time() - record.started_at.ToNanoseconds() / 1e9)
        table.add_row(
            *(record.worker_id, state, record.address, models, str(record.slots)),
            *(record.engine, record.zone, up, record.version),
        )
    show(table if table.row_count else "no workers")


async def _stats(config: StatsConfig) -> None:
    answer = await _ask(config, lambda admin: admin.GetStats(admin_pb2.GetStatsRequest(), timeout=_LIMIT))
    facts = _flatten(answer)
    if config.json:
        print(json.dumps(facts))
        return
    table = Table(box=None, show_header=False)
    for name, value in facts.items():
        table.add_row(name, str(value))
    show(table)


async def _drain(config: DrainConfig) -> None:
    answer = await _ask(config, lambda admin: admin.Drain(admin_pb2.DrainRequest(stop=config.stop), timeout=_LIMIT))
    print(f"{config.worker} drains; live streams: {answer.live_streams}")


async def _undrain(config: UndrainConfig) -> None:
    answer = await _ask(config, lambda admin: admin.Undrain(admin_pb2.UndrainRequest(), timeout=_LIMIT))
    print(f"{config.worker} takes requests again; live streams: {answer.live_streams}")


async def _list_adapters(config: AdaptersConfig) -> None:
    answer = await _ask(config, lambda admin: admin.ListAdapters(admin_pb2.ListAdaptersRequest(), timeout=_LIMIT))
    table = Table(box=None, header_style="bold")
    for name in ("adapter", "base", "fingerprint", "parameters", "live streams"):
        table.add_column(name)
    for adapter in answer.adapters:
        counts = (str(adapter.parameters), str(adapter.live_streams))
        table.add_row(adapter.name, adapter.base, adapter.fingerprint, *counts)
    show(table if table.row_count else "no adapters")


async def _load_adapter(config: LoadAdapterConfig) -> None:
    name, _, path = config.adapter.partition("=")
    if not name or not path:
        raise invalid("adapter", f"an adapter must be given as name=path, not '{config.adapter}'")
    request = admin_pb2.LoadAdapterRequest(name=name, path=path, base=config.base)
    answer = await _ask(config, lambda admin: admin.LoadAdapter(request, timeout=_LOAD_LIMIT))
    print(
        f"{config.worker} serves {name}, an adapter of {answer.adapter.base}; fingerprint {answer.adapter.fingerprint}"
    )


async def _unload_adapter(config: UnloadAdapterConfig) -> None:
    request = admin_pb2.UnloadAdapterRequest(name=config.adapter)
    answer = await _ask(config, lambda admin: admin.UnloadAdapter(request, timeout=_LIMIT))
    print(f"{config.worker} takes no more requests for {config.adapter}; live streams: {answer.live_streams}")


COMMANDS: Final[dict[str, tuple[type[EtcdFlags], Callable[[Any], Coroutine[Any, Any, None] | int | None]]]] = {
    "workers": (WorkersConfig, _workers),
    "stats": (StatsConfig, _stats),
    "drain": (DrainConfig, _drain),
    "undrain": (UndrainConfig, _undrain),
    "top": (TopConfig, top),
    "message": (MessageConfig, message),
    "throughput": (ThroughputConfig, throughput),
    "adapters list": (AdaptersConfig, _list_adapters),
    "adapters load": (LoadAdapterConfig, _load_adapter),
    "adapters unload": (UnloadAdapterConfig, _unload_adapter),
    **keys.COMMANDS,
    **routes.COMMANDS,
    **aliases.COMMANDS,
}
"""Every `mesh ctl` command: its settings and what it does; what is no coroutine may return an exit code."""


def main(argv: Sequence[str]) -> int:
    """Run `mesh ctl`; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {_PROG} COMMAND ...\n\ncommands:")
        print("\n".join(f"  {name:<15} {(kind.__doc__ or '').splitlines()[0]}" for name, (kind, _) in COMMANDS.items()))
        print(f"\nMost of them ask the registry at --etcd URL; {_PROG} COMMAND --help tells more.")
        return 0 if argv else 2
    words = 2 if argv[0] in ("adapters", "alias", "keys", "routes") else 1
    name = " ".join(argv[:words])
    if name not in COMMANDS:
        fail(_PROG, f"unknown command '{name}'; there are: {', '.join(COMMANDS)}")
    kind, command = COMMANDS[name]
    prog = f"{_PROG} {name}"
    config = parse(
        kind, prog=prog, env_prefix="MESH_CTL_", argv=argv[words:], siblings=[each for each, _ in COMMANDS.values()]
    )
    if isinstance(config, WorkerConfig) and not config.worker:
        fail(prog, "a worker must be named: its id in the registry, or its host:port")
    try:
        code = command(config)
        return (asyncio.run(code) if isinstance(code, Coroutine) else code) or 0
    except KeyboardInterrupt:
        if command is top:  # it has no other end
            return 0
        raise
    except MeshError as error:
        fail(prog, error.message)
    except EtcdError as error:  # it answered when it was first asked
        fail(prog, str(error))
    except BrokenPipeError:  # a ConnectionError too, but of who reads the output
        raise
    except ConnectionError as error:
        fail(prog, str(error))


async def _ask(config: WorkerConfig, call: Callable[[admin_pb2_grpc.AdminServiceStub], Any]) -> Any:
    address = (await find_worker(config.etcd_options(), config.worker)).address
    async with admin(config, address) as service:
        try:
            return await call(service)
        except grpc.aio.AioRpcError as error:
            said = wire.from_rpc_error(error, "--tls-")
            raise MeshError(said.kind, f"worker '{config.worker}' at {address}: {said.message}") from None


def _flatten(stats: admin_pb2.GetStatsResponse) -> dict[str, str | int | float]:
    facts: dict[str, str | int | float] = {"worker": stats.worker_id, "incarnation": stats.incarnation}
    facts["state"] = registry_pb2.WorkerState.Name(stats.state).removeprefix("WORKER_STATE_").lower()
    facts |= {name: getattr(stats, name) for name in _COUNTERS}
    facts |= {
        f"load.{field.name}": _plain(float(getattr(stats.load, field.name))) for field in stats.load.DESCRIPTOR.fields
    }
    return facts | {f"engine.{name}": _plain(value) for name, value in sorted(stats.engine.items())}


def _plain(value: float) -> int | float:
    """Counts are floats on the wire, as seconds and shares are."""
    return int(value) if value.is_integer() else round(value, 6)
