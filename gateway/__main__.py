"""`mesh-gateway`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from gateway.config import GatewayConfig
from mesh.config import fail, parse
from mesh.ending import die_of_interrupts
from mesh.errors import MeshError
from mesh.log import setup, silence_grpc

if TYPE_CHECKING:
    from gateway.processes import Seat

_PROG = "mesh-gateway"


def main(argv: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT; exit code 0, or 2 with one sentence if it cannot start."""
    die_of_interrupts()
    silence_grpc()
    config = parse(GatewayConfig, prog=_PROG, env_prefix="MESH_GATEWAY_", argv=argv, check=_check)
    setup("gateway")
    if config.processes == 1:
        _run_gateway(config)
        return
    from gateway.supervisor import Supervisor

    try:
        raise SystemExit(Supervisor(config, _run_gateway, _run_registry).run())
    except MeshError as error:
        fail(_PROG, error.message)


def _check(config: GatewayConfig) -> None:
    from gateway.access.exposure import check_exposure

    check_exposure(config)


def _run_gateway(config: GatewayConfig, seat: Seat | None = None) -> None:
    from gateway.lifecycle import run

    _run(run(config, seat))


def _run_registry(config: GatewayConfig, parent: int, tell: int) -> None:
    from gateway.lifecycle import run_registry

    _run(run_registry(config, parent, tell))


def _run(life: Coroutine[Any, Any, None]) -> None:
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(life)
    except* MeshError as group:
        fail(_PROG, _first(group).message)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _first(group: BaseExceptionGroup[MeshError]) -> MeshError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


if __name__ == "__main__":
    main()
