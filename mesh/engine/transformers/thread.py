"""The thread that owns torch: takes commands in, runs steps, hands one report per step to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import NamedTuple, TypeVar

import torch

from mesh.engine.base import Load
from mesh.engine.transformers.core import Core, Report
from mesh.errors import ErrorKind, MeshError

log = logging.getLogger(__name__)

Command = Callable[[Core], None]
T = TypeVar("T")

# So many broken steps in a row are no request's fault: the process is no use any more.
MOST_BROKEN_STEPS = 5


class Seen(NamedTuple):
    """The load after the last command or step, and how many commands it takes in."""

    load: Load
    taken: int


async def beside(work: Callable[[], T]) -> T:
    """Run something that uses torch on another thread than the engine's and the event loop's, on one core.

    With more it would leave an OpenMP pool of its own behind. Where the pools of a process have more threads than there
    are cores, GNU's OpenMP has them sleep after every product instead of waiting for the next: a decode step takes a
    quarter longer from then on.
    """

    def run() -> T:
        torch.set_num_threads(1)  # of this thread; the engine's keeps its own
        return work()

    return await asyncio.to_thread(run)


class EngineThread:
    """Builds a Core on its own thread and keeps it stepping while there is work.

    `build` makes the core; `deliver` gets each report, on the engine's thread. `seen` may be read from any thread: it
    is one value, for who adds what was not taken yet to the load must neither miss a request nor count it twice.
    """

    def __init__(self, build: Callable[[], Core], deliver: Callable[[Report], None]) -> None:
        self.ready: Future[Core] = Future()
        self.seen = Seen(Load(), 0)
        self.broken = False
        self._step_began: float | None = None
        self._build = build
        self._deliver = deliver
        self._inbox: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._stopping = False
        # A daemon: a load that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._main, name="mesh-engine", daemon=True)

    def start(self) -> None:
        """Begin to build; `ready` tells when that is done, or why it could not be."""
        self._thread.start()

    def call(self, command: Command) -> None:
        """Run a command between two steps, in order of the calls. From any thread."""
        self._inbox.put(command)

    def stop(self) -> None:
        """Ask the thread to end after its current step. From any thread."""
        self._stopping = True
        self._inbox.put(None)

    def give_up(self, why: str) -> None:
        """Something that the engine cannot do without is gone: tell everybody. From any other thread."""
        log.critical("the engine has broken down: %s", why)
        if not self.ready.done():
            with contextlib.suppress(InvalidStateError):  # the build has just come to its own end
                self.ready.set_exception(MeshError(ErrorKind.ENGINE_FAILED, why))
                return
        self._break(self.ready.result())

    @property
    def busy(self) -> float:
        """For how many seconds the current step has been running. From any thread."""
        began = self._step_began
        return 0.0 if began is None else time.monotonic() - began

    def _break(self, core: Core) -> None:
        if self.broken:
            return
        self.seen = Seen(Load(), self.seen.taken)
        self.broken = True
        self._deliver(Report(core.counters.steps + 1, time.monotonic(), Load(), broken=True))

    def join(self, seconds: float) -> bool:
        """Wait until the thread has ended, at most so long; returns whether it has. Blocks."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _main(self) -> None:
        with torch.inference_mode():
            try:
                core = self._build()
                self.seen = Seen(core.load(), 0)
                self.ready.set_result(core)
            except InvalidStateError:
                return  # given up meanwhile
            except BaseException as error:
                with contextlib.suppress(InvalidStateError):
                    self.ready.set_exception(error)
                return
            try:
                self._serve(core)
            except BaseException as error:
                # No request can cause this, so it is a fault of ours; whoever waits must not wait for ever.
                if not self.broken:
                    log.critical("the engine has broken down", exc_info=error)
                self._break(core)

    def _serve(self, core: Core) -> None:
        busy = False
        while self._take(core, wait=not busy):
            self._step_began = time.monotonic()
            report = core.step()
            self._step_began = None
            busy = report is not None
            if report is not None:
                self.seen = Seen(report.load, self.seen.taken)
                self._deliver(report)
            if core.broken_steps >= MOST_BROKEN_STEPS:
                raise RuntimeError(f"{core.broken_steps} steps in a row broke")

    def _take(self, core: Core, *, wait: bool) -> bool:
        """Run the commands that are there, after waiting for one if need be; False when it is time to end."""
        taken = self.seen.taken
        try:
            command = self._inbox.get(timeout=core.patience) if wait else self._inbox.get_nowait()
            while not self._stopping:
                if command is not None:
                    self._run(core, command)
                    taken += 1
                command = self._inbox.get_nowait()
        except queue.Empty:
            pass
        self.seen = Seen(core.load(), taken)
        return not self._stopping

    def _run(self, core: Core, command: Command) -> None:
        try:
            command(core)
        except Exception:
            log.exception("a command to the engine failed")
