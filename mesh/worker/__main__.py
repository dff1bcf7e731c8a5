"""`mesh-worker` and `python -m mesh.worker`."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence

from mesh import log
from mesh.config import ConfigError, fail, parse
from mesh.ending import die_of_interrupts
from mesh.engine.transformers.parallel.place import torchrun_place
from mesh.errors import MeshError
from mesh.worker.config import WorkerConfig

_PROG = "mesh-worker"


def main(argv: Sequence[str] | None = None) -> None:
    """Run a worker. What keeps it from starting is one sentence and exit code 2."""
    die_of_interrupts()
    try:
        config = parse(WorkerConfig, prog=_PROG, env_prefix="MESH_WORKER_", argv=argv, check=_check)
    except ConfigError as error:
        fail(_PROG, str(error))
    try:
        place = torchrun_place()
    except MeshError as error:
        fail(_PROG, error.message)
    if place is not None:
        if config.engine != "transformers":
            fail(_PROG, f"--engine {config.engine} has no use for {place.world} processes of torchrun")
        log.setup("worker", rank=place.rank)
        if place.rank:
            # Imported late: torch takes seconds.
            from mesh.engine.transformers.follower import follow

            follow(place)
    else:
        log.setup("worker")
    # Imported late: `--help` and a typo should not wait for gRPC.
    from mesh.worker.lifecycle import run

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            code = runner.run(run(config))
    except MeshError as error:
        fail(_PROG, error.message)
    if code:
        # Its engine has broken down: threads that are stuck in a driver would hold up an orderly exit.
        logging.shutdown()
        os._exit(code)


def _check(config: WorkerConfig) -> None:
    config.etcd_options()
    if config.port:
        config.advertised(config.port)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed: it takes less CPU per message."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    main()
