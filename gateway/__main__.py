"""`mesh-gateway`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence

from gateway.config import GatewayConfig
from mesh.config import fail, parse
from mesh.errors import MeshError
from mesh.log import setup

_PROG = "mesh-gateway"


def main(argv: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT; exit code 0, or 2 with one sentence if it cannot start."""
    config = parse(GatewayConfig, prog=_PROG, env_prefix="MESH_GATEWAY_", argv=argv)
    setup("gateway")
    # gRPC reads it when it is imported. What it would print (a worker went away, a port is taken) we say ourselves.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from gateway.lifecycle import run

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(run(config))
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
