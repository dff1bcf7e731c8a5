"""Runs a plan until it is stopped.

This process serves the registry, unless there is an etcd: it outlives the others, so that workers can sign off. One
Ctrl-C stops the web pages, the gateways, then the workers, and waits for them; a second one kills. So does the end of
the terminal, but for the second one.

Once everything runs, what ends by a fault is started again, for as long as it takes. What was asked to end, such as a
worker that was drained, is left out. The end of the last gateway or worker ends everything, as any end does before.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from mesh.cli.up import probes, record
from mesh.cli.up.children import printer, silent
from mesh.cli.up.logs import Log
from mesh.cli.up.plan import Kind, Plan
from mesh.cli.up.process import identity
from mesh.cli.up.runner import Runner, describe
from mesh.cli.workers import list_workers
from mesh.errors import MeshError
from mesh.registry import ALIASES_PREFIX, EmbeddedRegistry, EtcdClient, EtcdError, encode_value, probe
from mesh.v1.registry_pb2 import Alias, WorkerRecord, WorkerState
from mesh.version import version

_POLL, _SLOW_POLL = 0.2, 2.0
_STATES: dict[int, record.State] = {
    WorkerState.WORKER_STATE_READY: "ready",
    WorkerState.WORKER_STATE_DRAINING: "draining",
}


@dataclass(frozen=True)
class Notes:
    """Where a mesh is told of: its name, its record, the folder of its logs, and whether lines are shown here too."""

    name: str
    path: Path
    logs: Path
    echo: bool = True


class Supervisor:
    """The processes of one `mesh up`. `tell` tells people a line, `on_ready` is called once everything runs."""

    def __init__(self, plan: Plan, notes: Notes, tell: Callable[[str], None], on_ready: Callable[[], None]) -> None:
        self._plan = plan
        self._notes = notes
        self._tell = tell
        self._on_ready = on_ready
        self._began = time.time()
        self._runners: list[Runner] = []
        self._left: set[str] = {service.name for service in plan.services}  # those that did not end for good
        self._ready = False
        self._stopping = asyncio.Event()
        self._code = 0
        self._written: record.Record | None = None

    async def run(self) -> int:
        """Run until Ctrl-C, SIGTERM or an end that ends all; returns the exit code.

        A taken port, or a folder that cannot be written to, is a MeshError or an OSError.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
            # A terminal that is closed tells more than once, and nobody is there to make haste.
            loop.add_signal_handler(signal.SIGHUP, self._stopping.set)
        async with AsyncExitStack() as stack:
            if self._plan.registry_port is not None:
                registry = EmbeddedRegistry()
                await registry.start("127.0.0.1", self._plan.registry_port)
                stack.push_async_callback(registry.stop)
            self._prepare(stack)
            self._note()
            stack.callback(self._notes.path.unlink, missing_ok=True)
            await self._run_children()
        return self._code

    def _prepare(self, stack: AsyncExitStack) -> None:
        width = max(len(service.name) for service in self._plan.services)
        for number, service in enumerate(self._plan.services):
            log = stack.enter_context(Log(self._notes.logs / f"{service.name}.log"))
            show = printer(service.name, width, number, self._tell) if self._notes.echo else silent
            self._runners.append(Runner(service, log, show, self._say))

    async def _run_children(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                work = group.create_task(self._start_and_watch(group))
                await self._stopping.wait()
                work.cancel()
                await asyncio.wait({work})
                await self._stop()
        finally:
            for runner in self._runners:
                runner.signal(signal.SIGKILL)

    async def _start_and_watch(self, group: asyncio.TaskGroup) -> None:
        for runner in self._runners:
            await runner.start()
            group.create_task(runner.follow(self._stopping, self._ended_for_good, self._note_if_possible))
        await self._set_aliases()
        while True:
            await self._look()
            became_ready = not self._ready and all(runner.state == "ready" for runner in self._runners)
            self._ready = self._ready or became_ready
            self._note_if_possible()
            if became_ready:
                self._on_ready()
            await asyncio.sleep(_SLOW_POLL if self._ready else _POLL)

    async def _look(self) -> None:
        """See what has become ready. A model may take long to load, and a process that dies is noticed elsewhere."""
        try:
            listed = {each.worker_id: each for each in await list_workers(self._plan.registry)}
        except (EtcdError, MeshError):
            listed = None
        for runner in self._runners:
            if runner.service.kind == "worker" and listed is not None:
                _look_at_worker(runner, listed.get(runner.worker_id))
        # The registry is asked first: unlike the gateway it does not log who asks how often.
        workers = [runner for runner in self._runners if runner.service.kind == "worker"]
        if self._ready or all(runner.state == "ready" for runner in workers):
            for runner in self._runners:
                if runner.state == "starting" and runner.service.kind != "worker":
                    await self._look_at_server(runner)

    async def _look_at_server(self, runner: Runner) -> None:
        url = runner.service.address
        if runner.service.kind == "webui":
            answers = await asyncio.to_thread(probes.answers, f"{url}/healthz")
        else:
            # Later a worker may be away for long, and the gateway is none the worse for it.
            wanted: set[str] = set() if self._ready else set(self._plan.models)
            answers = await asyncio.to_thread(probes.lists_models, url, wanted)
        if answers and runner.state == "starting":
            runner.state = "ready"

    async def _set_aliases(self) -> None:
        """As `mesh ctl alias set` would."""
        if not self._plan.aliases:
            return
        try:
            await probe(self._plan.registry, ALIASES_PREFIX, write=True)
            async with EtcdClient(self._plan.registry) as etcd:
                for name, model in self._plan.aliases.items():
                    await etcd.put((ALIASES_PREFIX + name).encode(), encode_value(Alias(model=model)))
        except (EtcdError, MeshError) as error:
            self._say(f"{error}: stopping")
            self._code = 2
            self._stopping.set()

    def _ended_for_good(self, runner: Runner, code: int) -> bool:
        """Whether a process that has ended is not to be started again. Stops the others if they are of no use then."""
        name, kind = runner.service.name, runner.service.kind
        if self._ready and code:
            return False  # its settings were good once: what it lacks now, such as etcd or its port, may come back
        self._left.discard(name)
        if self._ready and (kind == "webui" or self._any_left(kind)):
            self._say(f"{name} has ended as it was asked to: going on without it")
            return True
        said = "" if self._notes.echo else f"; it said: {runner.last_line}"
        self._say(f"{name} has ended with {describe(code)}: stopping the others{said}")
        self._code = 2 if code == 2 else 0 if self._ready else 1
        self._stopping.set()
        return True

    def _any_left(self, kind: Kind) -> bool:
        return any(service.name in self._left for service in self._plan.of(kind))

    async def _stop(self) -> None:
        """The pages and the gateways first, so that no request is left when the workers are asked to end."""
        order: tuple[Kind, ...] = ("webui", "gateway", "worker")
        for kind in order:
            runners = [runner for runner in self._runners if runner.service.kind == kind]
            for runner in runners:
                runner.signal(signal.SIGTERM)
            await asyncio.gather(*(runner.wait() for runner in runners))

    def _on_signal(self) -> None:
        if self._stopping.is_set():
            self._say("killing")
            for runner in self._runners:
                runner.signal(signal.SIGKILL)
            self._code = 130
        else:
            self._say("stopping; Ctrl-C again kills")
            self._stopping.set()

    def _say(self, text: str) -> None:
        self._tell(f"mesh up: {text}")

    def _note_if_possible(self) -> None:
        with contextlib.suppress(OSError):  # a full disk must not stop what answers
            self._note()

    def _note(self) -> None:
        """Write the record, if it has changed."""
        now = record.Record(
            name=self._notes.name,
            version=version(),
            pid=os.getpid(),
            identity=identity(os.getpid()) or "",
            started_at=self._began,
            ready=self._ready,
            registry=self._plan.registry.where,
            log=str(self._notes.logs),
            processes=[runner.record() for runner in self._runners],
        )
        if now != self._written:
            record.write(self._notes.path, now)
            self._written = now


def _look_at_worker(runner: Runner, listed: WorkerRecord | None) -> None:
    if runner.state in ("starting", "ready", "draining"):
        runner.state = "starting" if listed is None else _STATES.get(listed.state, "starting")
    if listed is not None:
        runner.address = listed.address
