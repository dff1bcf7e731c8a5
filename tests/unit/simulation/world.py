"""A gateway's routing, its workers and its clients in virtual time, with faults drawn from a seed.

Real are the directory, the sessions, the queue and the generations; simulated are the wire below a session and the
worker at its far end. A rule that does not hold raises Broken with the trace of what happened.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from gateway.routing.aliases import Aliases
from gateway.routing.balancer import Balancer, Settings
from gateway.routing.claim import Claim
from gateway.routing.directory import Directory
from gateway.routing.dispatch import Dispatch
from gateway.routing.events import Delta
from gateway.routing.generation import Generation
from gateway.routing.hedge import Hedge, Hedges
from gateway.routing.outliers import Outliers
from gateway.routing.pace import StallLimits
from gateway.routing.quarantine import Quarantine
from gateway.routing.queue import Queue, QueueLimits
from mesh.errors import MeshError, deadline_passed
from mesh.metrics import GatewayMetrics
from mesh.v1 import inference_pb2 as pb
from mesh.v1.registry_pb2 import Route
from tests.unit.simulation.loop import VirtualLoop
from tests.unit.simulation.worker import Wire, Worker, token_at

_LIMITS = StallLimits(factor=20.0, floor=1.0, ceiling=4.0)
_CREDIT = 16
HEDGE_SHARE = 0.25
_METRICS = GatewayMetrics()


class Broken(AssertionError):
    """A rule does not hold."""


@dataclass(slots=True, eq=False)
class Client:
    """One that asks, and what came of it. Times are seconds."""

    name: str
    seed: int
    choices: int
    length: int
    arrives: float
    tenant: str = ""
    priority: int = 0
    streamed: bool = True
    deadline: float | None = None  # after its arrival
    pause: float = 0.0  # between two reads
    leaves_after: int | None = None  # tokens, then it hangs up
    tokens: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    outcome: str = ""
    waited: float = 0.0  # until the first event
    hedge: Hedge | None = None
    attempts: int = 0

    @property
    def total(self) -> int:
        """Tokens so far."""
        return sum(map(len, self.tokens.values()))

    def request(self) -> pb.GenerateRequest:
        """What it asks for."""
        sampling = pb.SamplingOptions(seed=self.seed, n=self.choices, max_tokens=self.length)
        return pb.GenerateRequest(request_id=self.name, model="m", text="x", sampling=sampling)


class World:
    """See the module. To be made on the loop of the simulation."""

    def __init__(self, limits: QueueLimits, chance: random.Random) -> None:
        self.chance = chance
        self.trace: list[str] = []
        self.workers: dict[str, Worker] = {}
        self._wire = Wire()
        self._incarnations = 0
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, context: self.errors.append(str(context)))
        self.errors: list[str] = []
        self._directory = Directory(client="sim", grace=5.0, limits=_LIMITS, metrics=_METRICS, dial=self._wire.dial)
        self._queue = Queue(self._directory, limits, _METRICS)
        self._task = self._loop.create_task(self._directory.run(), name="directory")
        self._balancer = Balancer(Settings("least_loaded"), zone="", prefix_marks=16, metrics=_METRICS)
        self._dispatch = Dispatch(
            directory=self._directory,
            queue=self._queue,
            aliases=Aliases(),
            metrics=_METRICS,
            balancer=self._balancer,
            quarantine=Quarantine(after=3, seconds=60.0),
            outliers=Outliers(after=3, seconds=2.0),
            hedges=Hedges(HEDGE_SHARE, _METRICS),
            max_attempts=4,
            credit=_CREDIT,
            stall_ceiling=_LIMITS.ceiling,
            embed_timeout=10.0,
            keep_seconds=0.0,
        )

    def note(self, what: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self._loop.time():9.3f}  {what}")

    def hedge_after(self, seconds: float) -> None:
        """A second worker is asked when a first token is so late; 0 is never."""
        self._balancer.on_route("m", Route(policy="least_loaded", hedge_after=seconds))

    # Workers

    def join(self, worker_id: str, *, slots: int, queue: int = 8, step: float = 0.02) -> Worker:
        """A worker, or a new incarnation of one, appears in the registry."""
        self._incarnations += 1
        worker = Worker(worker_id, self._incarnations, slots=slots, queue=queue, step=step)
        self.workers[worker_id] = worker
        self._wire.workers[worker.address] = worker
        self.note(f"{worker_id} joins as {worker.incarnation} with {slots} slots")
        self.tell(worker)
        return worker

    def tell(self, worker: Worker) -> None:
        """The registry's news of a worker."""
        if self.workers.get(worker.worker_id) is worker:
            self._directory.on_worker(worker.worker_id, worker.record())

    def vanish(self, worker: Worker) -> None:
        """Its key is gone from the registry."""
        if self.workers.get(worker.worker_id) is worker:
            self._directory.on_worker(worker.worker_id, None)

    # Clients

    async def serve(self, client: Client) -> None:
        """One client from its request to its end."""
        await asyncio.sleep(client.arrives)
        self.note(f"{client.name} asks for {client.choices} x {client.length} tokens")
        deadline = None if client.deadline is None else self._loop.time() + client.deadline
        claim = Claim(client.tenant, client.priority, deadline)
        generation = Generation(client.request(), self._dispatch, streamed=client.streamed, claim=claim)
        timer = None if deadline is None else self._loop.call_at(deadline, generation.abort, deadline_passed(1.0))
        try:
            client.outcome = await self._read(client, generation)
        except MeshError as error:
            client.outcome = error.code
            self.note(f"{client.name}: {error.message}")
        finally:
            if timer is not None:
                timer.cancel()
            generation.close()
        client.hedge, client.attempts = generation.hedge, generation.attempts
        self.note(f"{client.name} {client.outcome} after {client.total} tokens, {generation.attempts} attempts")

    async def _read(self, client: Client, generation: Generation) -> str:
        began = self._loop.time()
        ended: set[int] = set()
        while not generation.done:
            for event in await generation.next():
                if isinstance(event, pb.Started):
                    client.waited = self._loop.time() - began
                elif isinstance(event, Delta):
                    self._take(client, event, ended)
                elif isinstance(event, pb.ChoiceFinished):
                    ended.add(event.choice)
            if client.leaves_after is not None and client.total >= client.leaves_after:
                return "left"
            if client.pause:
                await asyncio.sleep(client.pause)
            generation.delivered()
        if len(ended) != client.choices or client.total != client.choices * client.length:
            raise Broken(f"{client.name} has an end without all its tokens: {client.tokens}")
        return "complete"

    def _take(self, client: Client, delta: Delta, ended: set[int]) -> None:
        got = client.tokens.setdefault(delta.choice, [])
        for token in delta.token_ids:
            wanted = token_at(client.seed, delta.choice, len(got))
            if token != wanted or delta.choice in ended or len(got) >= client.length:
                raise Broken(f"{client.name} got {token} as token {len(got)} of choice {delta.choice}, not {wanted}")
            got.append(token)

    # A life

    async def live(self, acts: list[Coroutine[Any, Any, None]], *, within: float) -> None:
        """Let all this happen; it must have ended `within` so many seconds, and nothing must be left of it."""
        try:
            tasks = [asyncio.create_task(act) for act in acts]
            _, late = await asyncio.wait(tasks, timeout=within)
            if late:
                raise Broken(f"{len(late)} are still under way after {within:g} s")
            for task in tasks:
                task.result()
            await self._check_rest()
        finally:
            self._task.cancel()
            await asyncio.wait([self._task])
            for worker in self._wire.workers.values():
                worker.kill()
        await self._check_end()

    async def _check_rest(self) -> None:
        """All clients have ended: every count is back at zero."""
        await asyncio.sleep(1.0)  # what is on its way arrives
        left: dict[str, int] = {"in the queue": len(self._queue), "places": self._queue.places}
        for session in self._directory.sessions():
            left[f"streams on {session.worker_id}"] = len(session)
            left[f"unconfirmed on {session.worker_id}"] = session.unconfirmed
        for worker in self.workers.values():
            if worker.alive:
                left[f"rows of {worker.worker_id}"] = worker.rows
        found = {name: value for name, value in left.items() if value}
        if found:
            raise Broken(f"something is left: {found}")

    async def _check_end(self) -> None:
        await asyncio.sleep(0.1)
        left = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if left or self.errors:
            raise Broken(f"tasks are left: {left}; errors: {self.errors}")


class _Errors(logging.Handler):
    """What the code under test logs as an error is one: it means that something was not foreseen.

    What asyncio has to say of this loop comes to the loop's own handler; what it logs is of loops of earlier tests,
    whose tasks are collected meanwhile.
    """

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != "asyncio":
            self._world.errors.append(self.format(record))


def simulate(seed: int, limits: QueueLimits, life: Callable[[World], Awaitable[None]]) -> World:
    """Run a life in a world of its own. The same seed gives the same trace. Raises Broken."""

    async def run() -> None:
        nonlocal world
        world = World(limits, random.Random(seed))
        handler = _Errors(world)
        logging.getLogger().addHandler(handler)
        try:
            await asyncio.sleep(0)  # the directory runs
            await life(world)
        finally:
            logging.getLogger().removeHandler(handler)

    world: World | None = None
    random.seed(seed)
    loop = VirtualLoop()
    logging.disable(logging.WARNING)
    try:
        loop.run_until_complete(run())
    except Exception as error:
        trace = "\n".join(world.trace) if world is not None else ""
        raise Broken(f"seed {seed}: {type(error).__name__}: {error}\n{trace}") from error
    finally:
        logging.disable(logging.NOTSET)
        loop.close()
    assert world is not None
    return world
