"""Child processes of `mesh up`: started in a group of their own, their output in a log and under a coloured prefix."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from mesh.cli.up.logs import Log

_COLOURS = (36, 32, 33, 35, 34, 31)
_LONGEST_LINE = 1 << 20


class Child:
    """A running command. Its output is copied line by line until it ends."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, argv: Sequence[str], env: Mapping[str, str]) -> Self:
        """Start a command with these variables more than ours."""
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "MESH_LOG": "text", "PYTHONUNBUFFERED": "1", **env},
            limit=_LONGEST_LINE,
            process_group=0,  # a Ctrl-C in the terminal is for the parent, which stops its children in order
        )
        return cls(process)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self._process.returncode is not None

    async def copy_output(self, show: Callable[[str], None], log: Log) -> int:
        """Log its lines and show them until it ends; returns its exit code."""
        assert self._process.stdout is not None
        broken = False
        while line := await self._line(self._process.stdout):
            if not broken:
                try:
                    log.write(line)
                except OSError as error:  # a full disk must not stop what answers
                    broken = True
                    show(f"no more lines are logged in {log.path}: {error.strerror or error}")
            show(line.decode(errors="replace").rstrip("\n"))
        return await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it is gone."""
        if not self.ended:
            self._process.send_signal(number)

    async def wait(self) -> int:
        """Wait for its end; returns the exit code."""
        return await self._process.wait()

    @staticmethod
    async def _line(stream: asyncio.StreamReader) -> bytes:
        try:
            return await stream.readline()
        except ValueError:
            return b"(a line that is too long to show)\n"


def printer(name: str, width: int, number: int, tell: Callable[[str], None]) -> Callable[[str], None]:
    """Tells lines under a name, padded to `width`; the `number` picks its colour."""
    prefix = f"{name:<{width}} | "
    if sys.stderr.isatty():
        prefix = f"\x1b[{_COLOURS[number % len(_COLOURS)]}m{prefix}\x1b[0m"

    return lambda line: tell(f"{prefix}{line}")


def silent(_: str) -> None:
    """Shows nothing."""
