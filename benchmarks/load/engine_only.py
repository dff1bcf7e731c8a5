"""The scripted engine in a process without any wire: what to take off the worker's CPU to see what the wire costs."""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable

import psutil

from benchmarks.load import script
from mesh.engine.base import Chat, Message, Request, Sampling, Step
from mesh.engine.scripted import ScriptedEngine

_SETTLE = 0.5
_LIMIT = 60.0


def measure(streams: int, step: float, window: float, *, core: int | None) -> float:
    """Seconds of CPU per token of so many streams at this pace, in a process of its own."""
    arguments = ["--streams", str(streams), "--step", str(step), "--window", str(window)]
    popen = subprocess.Popen([sys.executable, "-m", __name__, *arguments], stdout=subprocess.PIPE, text=True)
    if core is not None:
        psutil.Process(popen.pid).cpu_affinity([core])
    output, _ = popen.communicate(timeout=window + _LIMIT)
    if popen.returncode:
        raise RuntimeError(f"the scripted engine alone ended with code {popen.returncode}")
    return float(json.loads(output)["cpu_per_token"])


async def _run(streams: int, step: float, window: float) -> float:
    """Seconds of CPU of this process per token."""
    engine = ScriptedEngine(script.options(streams, step))
    await engine.start(_ignore)
    for key in range(1, streams + 1):
        await engine.submit(_request(key))
    await asyncio.sleep(_SETTLE)
    cpu, tokens = time.process_time(), engine.stats()["output_tokens"]
    await asyncio.sleep(window)
    cpu, tokens = time.process_time() - cpu, engine.stats()["output_tokens"] - tokens
    await engine.stop()
    return cpu / tokens


def _ignore(step: Step) -> None:
    """The listener of a worker without clients."""


def _request(key: int) -> Request:
    prompt = Chat((Message("user", (script.PROMPT,)),))
    return Request(key, f"bench-{key}", script.MODEL, prompt, Sampling(seed=key, temperature=0.0))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The event loop that the worker runs on."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--step", type=float, required=True)
    parser.add_argument("--window", type=float, required=True)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        cost = runner.run(_run(options.streams, options.step, options.window))
    print(json.dumps({"cpu_per_token": cost}))


if __name__ == "__main__":
    main()
