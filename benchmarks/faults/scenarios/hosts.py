"""The machine of the gateway fails in small ways."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.faults.stage import Stage, scenario
from benchmarks.systems.answer import Answer
from benchmarks.systems.system import Inexpressible, Setup

_FULL = Path("/dev/full")
_FAKETIME = (*Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), Path("/usr/lib/faketime/libfaketimeMT.so.1"))
_CLOCK = Path("/dev/shm") / f"clock-{os.getpid()}"
_ROUNDS = 3
# Seconds after which a process sees that its clock was set: to look each time would cost its start ten seconds of CPU.
_SEEN_AFTER = 1
# Tokens of an answer whose second half lasts long enough for that.
_LONG = 200


def _full_disk() -> Setup:
    if not _FULL.exists():
        raise Inexpressible("this machine has no /dev/full")
    return Setup(output=_FULL)


@scenario(_full_disk)
async def full_disk_for_logs(stage: Stage) -> None:
    """Whatever the processes log fails with "no space left". Nobody notices."""
    for _ in range(_ROUNDS):
        stage.take(await stage.ask())


def _fake_clock() -> Setup:
    library = next((path for path in _FAKETIME if path.exists()), None)
    if library is None:
        raise Inexpressible("libfaketime is not installed")
    _CLOCK.write_text("+0\n")
    settings = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(_CLOCK),
        "FAKETIME_CACHE_DURATION": str(_SEEN_AFTER),
        # As when somebody sets the clock: what counts seconds since the start goes on.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    return Setup(gateway_env=tuple(settings.items()))


@scenario(_fake_clock)
async def clock_step(stage: Stage) -> None:
    """The gateway's clock jumps an hour ahead, and later two hours back, in the middle of answers. Nobody notices."""

    async def at(hours: int) -> Answer:
        async def on_token(count: int) -> None:
            if count == _LONG // 2:
                _CLOCK.write_text(f"{hours * 3600:+d}\n")

        return await stage.ask(on_token, max_tokens=_LONG)

    try:
        undisturbed = await stage.ask(max_tokens=_LONG)
        for hours in (1, -1, 0):
            stage.take(await at(hours), undisturbed)
    finally:
        _CLOCK.unlink(missing_ok=True)
