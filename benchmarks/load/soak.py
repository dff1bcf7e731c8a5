"""`python -m benchmarks.load.soak`: memory of gateway and worker over very many short streams. It must not grow.

The first tenth warms up: caches, pools and the interpreter's free lists fill. What counts is the growth after that.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.load import script
from benchmarks.load.processes import Load, load_generator
from benchmarks.machine import describe
from benchmarks.processes import Process, ProcessFailed, free_port, python, wait_http
from benchmarks.table import markdown, number

_PARTS = 10
# The load generator answers a command within 120 s.
_MOST_AT_ONCE = 5_000


@dataclass(frozen=True, slots=True)
class Reading:
    """Streams so far, and resident memory in MiB then."""

    streams: int
    gateway: float
    worker: float


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load.soak", description=__doc__, allow_abbrev=False)
    parser.add_argument("--streams", type=int, default=200_000, help="streams in all, at least 10 (200000)")
    parser.add_argument("--connections", type=int, default=64, help="connections that ask in turn (64)")
    parser.add_argument("--tokens", type=int, default=4, help="tokens of an answer (4)")
    options = parser.parse_args(argv)
    if options.streams < _PARTS or options.connections < 1 or options.tokens < 1:
        parser.error(f"needs at least {_PARTS} streams, 1 connection and 1 token")
    machine = describe()
    try:
        readings = run(options.streams, options.connections, options.tokens)
    except ProcessFailed as error:
        sys.exit(f"benchmarks.load.soak: {error}")
    lines = [*machine.lines(), f"{options.connections} connections, {options.tokens} tokens an answer, 1 ms a step"]
    print("\n".join(f"- {line}" for line in lines), table(readings), sep="\n\n")


def run(streams: int, connections: int, tokens: int) -> list[Reading]:
    """A gateway and a worker, and so many streams through them; a reading after each tenth. Raises ProcessFailed."""
    with TemporaryDirectory(prefix="bench-soak-") as name:
        folder, port, registry = Path(name), free_port(), free_port()
        ports = ["--port", str(port), "--registry-port", str(registry)]
        with Process("gateway", python("gateway", *ports), folder) as gateway:
            wait_http(gateway, port, "/healthz")
            place = ["--port", "0", "--no-metrics", "--etcd", f"127.0.0.1:{registry}"]
            command = python("mesh.worker", *place, *script.flags(connections, 0.001))
            with Process("worker", command, folder) as worker, load_generator(port, script.MODEL, core=None) as load:
                wait_http(gateway, port, "/readyz")
                readings: list[Reading] = []
                for part in range(1, _PARTS + 1):
                    _ask(load, streams // _PARTS, connections, tokens)
                    readings.append(Reading(part * (streams // _PARTS), gateway.memory(), worker.memory()))
                    print(f"{readings[-1].streams} streams", file=sys.stderr, flush=True)
                return readings


def _ask(load: Load, streams: int, connections: int, tokens: int) -> None:
    """Have them answered, in portions that the generator's time limit allows."""
    while streams:
        now = min(streams, _MOST_AT_ONCE)
        load.do("ask", requests=now, streams=connections, max_tokens=tokens)
        streams -= now


def table(readings: Sequence[Reading]) -> str:
    """One row a reading, with the growth since the first."""
    first = readings[0]
    rows = [
        [
            str(each.streams),
            number(each.gateway),
            number(each.gateway - first.gateway),
            number(each.worker),
            number(each.worker - first.worker),
        ]
        for each in readings
    ]
    return markdown(("streams", "gateway MiB", "since the first", "worker MiB", "since the first"), rows)


if __name__ == "__main__":
    main()
