"""Child processes of `mesh up`: started in a group of their own, their output under a coloured prefix."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from typing import Self

_COLOURS = (36, 32, 33, 35, 34, 31)
_LONGEST_LINE = 1 << 20


class Child:
    """A running command. Its output is copied line by line until it ends."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, number: int) -> None:
        self.name = name
        self._process = process
        self._colour = _COLOURS[number % len(_COLOURS)]

    @classmethod
    async def start(cls, name: str, argv: Sequence[str], number: int) -> Self:
        """Start a command; the `number` picks the colour."""
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"GRPC_VERBOSITY": "ERROR", **os.environ, "MESH_LOG": "text", "PYTHONUNBUFFERED": "1"},
            limit=_LONGEST_LINE,
            process_group=0,  # a Ctrl-C in the terminal is for the parent, which stops its children in order
        )
        return cls(name, process, number)

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self._process.returncode is not None

    async def copy_output(self, width: int) -> int:
        """Write its lines to stderr until it ends; returns its exit code. Names are padded to `width`."""
        assert self._process.stdout is not None
        prefix = f"{self.name:<{width}} | "
        if sys.stderr.isatty():
            prefix = f"\x1b[{self._colour}m{prefix}\x1b[0m"
        while line := await self._line(self._process.stdout):
            sys.stderr.write(prefix + line.decode(errors="replace").rstrip("\n") + "\n")
            sys.stderr.flush()
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
