"""One process of a plan, started again when it breaks."""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
import time
from collections.abc import Callable

from mesh.cli.child import command
from mesh.cli.up.children import Child
from mesh.cli.up.logs import Log
from mesh.cli.up.plan import Service
from mesh.cli.up.process import identity
from mesh.cli.up.record import ProcessRecord, State

# Seconds before a process that broke is started again: doubled each time, until one has run for long enough.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_LONG_ENOUGH = 60.0


class Runner:
    """Runs a service; `state` is what is known of it. Call `start`, then `follow`.

    Its lines go to the log and to `show`, what happens to it to `say`.
    """

    def __init__(self, service: Service, log: Log, show: Callable[[str], None], say: Callable[[str], None]) -> None:
        self.service = service
        self.state: State = "starting"
        self.worker_id = ""
        self.address = service.address
        self._log = log
        self.last_line = ""
        self._show = show
        self._say = say
        self._child: Child | None = None
        self._identity = ""
        self._restarts = 0
        self._exit = ""

    async def start(self) -> None:
        """Start the process."""
        service = self.service
        argv = list(service.argv)
        if service.kind == "worker":
            # A new one each time: the registry may still list the one before.
            self.worker_id = f"{socket.gethostname()}-{service.name}-{secrets.token_hex(2)}"
            argv += ["--worker-id", self.worker_id]
        self._child = await Child.start(command(service.module, *argv), service.env)
        self._identity = identity(self._child.pid) or ""
        self.state = "starting"

    async def follow(
        self, stopping: asyncio.Event, on_end: Callable[[Runner, int], bool], on_change: Callable[[], None]
    ) -> None:
        """Copy its output, and start it again when it has ended, until `on_end` (given its exit code) says that this
        was the end for good, or until `stopping`. `on_change` is called when it has ended and when it runs again."""
        pause = _FIRST_PAUSE
        while True:
            assert self._child is not None, "start comes first"
            began = time.monotonic()
            code = await self._child.copy_output(self._see, self._log)
            self._exit, self.state = describe(code), "ended"
            if stopping.is_set() or on_end(self, code):
                return
            if time.monotonic() - began >= _LONG_ENOUGH:
                pause = _FIRST_PAUSE
            self._say(f"{self.service.name} has ended with {self._exit}: starting it again in {pause:g} s")
            self.state = "restarting"
            on_change()
            pause = await self._start_again(pause, stopping)
            on_change()
            if stopping.is_set():  # meanwhile, so who stops knew only the one before
                self.signal(signal.SIGTERM)

    async def _start_again(self, pause: float, stopping: asyncio.Event) -> float:
        """Start it after a pause, and after longer ones while the system has no process to give. Returns the next."""
        while not await _set_within(stopping, pause):
            pause = min(2 * pause, _LONGEST_PAUSE)
            self._restarts += 1
            try:
                await self.start()
            except OSError as error:
                said = error.strerror or error
                self._say(f"{self.service.name} cannot be started: {said}: trying again in {pause:g} s")
            else:
                break
        return pause

    def _see(self, line: str) -> None:
        self.last_line = line
        self._show(line)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process that runs, if one does."""
        if self._child is not None:
            self._child.signal(number)

    async def wait(self) -> None:
        """Wait for the end of the process that runs."""
        if self._child is not None:
            await self._child.wait()

    def record(self) -> ProcessRecord:
        """What is known of it."""
        return ProcessRecord(
            name=self.service.name,
            kind=self.service.kind,
            pid=0 if self._child is None or self._child.ended else self._child.pid,
            identity=self._identity,
            state=self.state,
            restarts=self._restarts,
            address=self.address,
            log=str(self._log.path),
            models=list(self.service.models),
            worker_id=self.worker_id,
            exit=self._exit,
        )


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def describe(code: int) -> str:
    """An exit code in words."""
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
