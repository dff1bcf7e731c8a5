"""Lines for people who may stop reading: at Ctrl-S, in a pager, or for good."""

from __future__ import annotations

import os
import queue
import threading
from typing import TextIO

from mesh.counted import counted

_MOST_WAITING = 1000


class Teller:
    """Writes lines to a stream from a thread of its own, so that a reader who stops holds up nobody else: not what
    answers, nor the processes whose lines these are. Beyond `most` lines those that come meanwhile are left out.
    """

    def __init__(self, stream: TextIO, most: int = _MOST_WAITING) -> None:
        # Not by the stream itself, whose lock a thread that waits in it would hold at the end of the process.
        self._target = stream.fileno()
        self._encoding = stream.encoding
        self._lines: queue.Queue[str | None] = queue.Queue(most)
        self._left_out = 0
        self._thread = threading.Thread(target=self._write_all, name="teller", daemon=True)
        self._thread.start()

    def __call__(self, text: str) -> None:
        """Tell a line. Does not wait."""
        try:
            if self._left_out:
                self._lines.put_nowait(f"({counted(self._left_out, 'line')} left out: nobody read them)")
                self._left_out = 0
            self._lines.put_nowait(text)
        except queue.Full:
            self._left_out += 1

    def close(self, seconds: float = 1.0) -> None:
        """Wait until all is told, at most so long."""
        try:
            self._lines.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._write((line + "\n").encode(self._encoding, "replace"))
            except OSError:  # as after `| head -1`: from now on nobody is told anything
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._target)
                os.close(nowhere)

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._target, data) :]
