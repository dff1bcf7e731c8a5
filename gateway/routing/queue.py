"""The queue: requests for which no worker has room, or for whose model none is live, wait here instead of failing.

Each model has a line, bounded in number and time. A request keeps its place in it when the worker that it was given
refuses after all. While nobody waits, a request for which there is room is begun at once.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prometheus_client import Gauge

from gateway.routing import clock
from gateway.routing.claim import Claim
from gateway.routing.directory import Directory
from gateway.routing.fairness import OUTPUT_WEIGHT, PROMPT_WEIGHT, Account, Ledger
from gateway.routing.line import Line
from gateway.routing.room import has_room
from gateway.routing.session import Session
from mesh.errors import ErrorKind, MeshError
from mesh.metrics import GatewayMetrics

# The last so many turns tell the rate of service.
_TURNS = 32
_LONGEST_RETRY_AFTER = 60.0
_COME_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """At most `length` new requests of a model wait, and none for more than `timeout` seconds. `ahead` rows may wait on
    a worker. `patience`: see `Line`."""

    length: int
    timeout: float
    ahead: int
    patience: float


class Queue:
    """The queue of a gateway. It looks for room whenever the directory has news."""

    def __init__(self, directory: Directory, limits: QueueLimits, metrics: GatewayMetrics) -> None:
        self._directory = directory
        self._limits = limits
        self._metrics = metrics
        self._models: dict[str, ModelQueue] = {}
        # Those in whose line somebody is.
        self._busy: dict[str, ModelQueue] = {}
        self._numbers = itertools.count(1)
        directory.watch(self._on_news, self._on_load)

    def __len__(self) -> int:
        """Requests that wait."""
        return sum(len(queue.line) for queue in self._busy.values())

    @property
    def places(self) -> int:
        """Requests that are under way, waiting or not."""
        return sum(queue.places for queue in self._models.values())

    def place(self, model: str, claim: Claim) -> Place:
        """The place of a new request. Close it."""
        queue = self._models.get(model)
        if queue is None:
            queue = ModelQueue(model, self._directory, self._limits, self._metrics, self._busy)
            self._models[model] = queue
        return Place(queue, claim, next(self._numbers), self._closed)

    def _closed(self, queue: ModelQueue) -> None:
        """A place was closed. The tenants' counters are kept, but not those of a model that is not here."""
        if not queue.places and not self._directory.knows(queue.model):
            self._models.pop(queue.model, None)

    def _on_news(self, model: str | None) -> None:
        for name in list(self._busy) if model is None else [model] if model in self._busy else ():
            self._busy[name].serve()

    def _on_load(self, session: Session) -> None:
        """The hot path: once per message of a worker."""
        if self._busy and has_room(session, self._limits.ahead):
            self._on_news(None)


class ModelQueue:
    """Those that wait for one model, its tenants' counters, and its rate of service."""

    def __init__(
        self,
        model: str,
        directory: Directory,
        limits: QueueLimits,
        metrics: GatewayMetrics,
        busy: dict[str, ModelQueue],
    ) -> None:
        self.model = model
        self.limits = limits
        self.line: Line[Place] = Line(limits.patience)
        self.ledger = Ledger()
        self.places = 0
        self._directory = directory
        self._metrics = metrics
        self._busy = busy
        # Seconds between turns while somebody waited; when the last one of the present wait was.
        self._intervals: deque[float] = deque(maxlen=_TURNS)
        self._turn_at: float | None = None

    def serve(self) -> None:
        """Begin, in order, all requests for which there is room."""
        while len(self.line) and self._serve_next():
            pass

    def enter(self, place: Place) -> None:
        """Join the line; it may be this one's turn at once. Raises MeshError if it may not wait. `leave` follows."""
        place.waiting = True
        self.line.add(place, clock.now())
        place.gauge = self._metrics.queue_length.labels(self._label())
        place.gauge.inc()
        self._busy[self.model] = self
        self.serve()
        if place.waiting and not place.admitted:
            self._check(place)
            place.admitted = True

    def leave(self, place: Place) -> None:
        """Leave the line, unless it was this one's turn."""
        if place.waiting:
            self.line.remove(place)
            self._left(place)

    def _serve_next(self) -> bool:
        """Let the first that can begin do so; False if none can."""
        now = clock.now()
        live = self._directory.live(self.model)
        # Without a worker, everybody has to find out whether there is hope.
        everybody = not live or bool(self.free(live, urgent=False))
        for place in self.line.order(now, urgent_only=not everybody):
            if place.serve():
                self._took_turn(now)
                self.line.served(place, now)
                self._left(place)
                return True
        return False

    def _took_turn(self, now: float) -> None:
        if self._turn_at is not None:
            self._intervals.append(now - self._turn_at)
        self._turn_at = now

    def _left(self, place: Place) -> None:
        place.waiting = False
        if place.gauge is not None:
            place.gauge.dec()
        if not len(self.line):
            self._turn_at = None  # the time until the next turn says nothing about the rate
            self._busy.pop(self.model, None)

    def free(self, sessions: Sequence[Session], *, urgent: bool) -> list[Session]:
        """Of these workers the ones that may be asked. A worker keeps urgent requests in its own queue if need be."""
        now, ahead = clock.now(), self.limits.ahead
        return [each for each in sessions if now >= each.full_until and (urgent or has_room(each, ahead))]

    # Limits

    def _check(self, place: Place) -> None:
        """Raise MeshError for a request that finds the line full, or whose deadline cannot be kept."""
        waiting = len(self.line) - 1
        if not (place.begun or place.claim.holds or self._directory.live(self.model)):
            text = f"no live worker for the model '{self.model}'"
            raise MeshError(ErrorKind.NO_WORKER, text, retry_after=_COME_AGAIN_SECONDS)
        if not place.begun and waiting >= self.limits.length:
            self._count("full")
            raise self._no_room(f"{waiting} requests wait for the model '{self.model}' (limit {self.limits.length})")
        left = place.claim.seconds_left
        ahead = self.line.ahead(place) if left is not None else 0
        wait = self._seconds(ahead + 1)
        if left is None or wait <= left:
            return
        self._count("deadline")
        text = (
            f"the deadline is in {left:.2f} s, and behind {ahead} other requests for the model '{self.model}' this one "
            f"would begin in about {wait:.2f} s"
        )
        raise MeshError(ErrorKind.OVERLOADED, text, retry_after=max(1.0, wait - left))

    def too_long(self, place: Place) -> MeshError:
        """What to say to a request that has waited for as long as it may."""
        within = f"within {self.limits.timeout:g} s"
        if place.begun:
            return MeshError(ErrorKind.WORKER_LOST, f"the worker was lost, and {within} none could go on")
        self._count("timeout")
        if self._directory.live(self.model):
            return self._no_room(f"no worker had room for the model '{self.model}' {within}", place.refusal)
        return self._no_room(f"no live worker for the model '{self.model}' {within}")

    def _no_room(self, text: str, refusal: MeshError | None = None) -> MeshError:
        if self._directory.live(self.model):
            wait = self._seconds(len(self.line))
            if refusal is not None:
                text = f"{text}: {refusal.message}"
                wait = max(wait, refusal.retry_after or 0.0)
            return MeshError(ErrorKind.OVERLOADED, text, retry_after=min(max(1.0, wait), _LONGEST_RETRY_AFTER))
        return MeshError(ErrorKind.NO_WORKER, text, retry_after=max(1.0, self.limits.timeout))

    def _seconds(self, turns: int) -> float:
        """How long so many turns take, by the last ones; 0 if none was measured."""
        return turns * sum(self._intervals) / len(self._intervals) if self._intervals else 0.0

    # Metrics

    def _label(self) -> str:
        """Names that are made up by clients have no metric of their own."""
        return self.model if self._directory.knows(self.model) else ""

    def _count(self, reason: str) -> None:
        self._metrics.queue_refused.labels(self._label(), reason).inc()

    def count_wait(self, seconds: float) -> None:
        """A request has had its turn after so long."""
        self._metrics.queue_wait.labels(self._label()).observe(seconds)


class Place:
    """What one request is to the queue, from its arrival to its end; it may need several turns.

    `urgent`: goes first, and needs no room. `begun`: the client has seen some of the answer. `admitted`: has been let
    into the line once. `waiting`: is in it now.
    """

    def __init__(self, queue: ModelQueue, claim: Claim, number: int, on_close: Callable[[ModelQueue], None]) -> None:
        self.claim = claim
        self.priority = claim.priority
        self.number = number
        self.urgent = self.begun = self.admitted = self.waiting = False
        self._queue = queue
        self._on_close = on_close
        waiting = queue.line.accounts() if len(queue.line) else ()
        self._bill = queue.ledger.open(claim.tenant, claim.weight, waiting)
        self._candidates: Callable[[], Sequence[Session]] = tuple
        self._start: Callable[[Sequence[Session]], None] | None = None
        self._turn: asyncio.Future[None] | None = None
        self._until: float | None = None
        self.gauge: Gauge | None = None
        # What the worker said that was asked last.
        self.refusal: MeshError | None = None
        self._error: MeshError | None = None
        self._failure: Exception | None = None
        queue.places += 1

    @property
    def account(self) -> Account:
        """The tenant's."""
        return self._bill.account

    async def turn(
        self,
        candidates: Callable[[], Sequence[Session]],
        start: Callable[[Sequence[Session]], None],
        *,
        urgent: bool,
        begun: bool,
    ) -> None:
        """Let `start` begin the request on one of the workers that it is given, now or when it is its turn.

        `candidates` could take it, whether they have room or not. What it raises ends the wait. Raises MeshError if the
        wait is too long, or would be. All turns until the next progress have to come within the time of one.
        """
        self._candidates, self._start = candidates, start
        self.urgent, self.begun, self._failure = urgent, begun, None
        now = clock.now()
        if self._until is None:
            self._until = now + self._queue.limits.timeout
        if self._error is not None:
            raise self._error
        self.claim.check()
        if (len(self._queue.line) and not urgent) or not self._try():
            await self._in_line(self._until)
        self._queue.count_wait(clock.now() - now)

    async def _in_line(self, until: float) -> None:
        turn = self._turn = asyncio.get_running_loop().create_future()
        try:
            self._queue.enter(self)
            async with asyncio.timeout_at(until):
                await turn
        except TimeoutError:
            if self.waiting:
                raise self._queue.too_long(self) from None
        finally:
            self._queue.leave(self)
        if self._failure is not None:
            raise self._failure

    def serve(self) -> bool:
        """Begin the request if it can be begun, or let `turn` raise why it never can; False if it has to wait."""
        try:
            if not self._try():
                return False
        except Exception as error:
            self._failure = error
        self._wake()
        return True

    def _try(self) -> bool:
        free = self._queue.free(self._candidates(), urgent=self.urgent)
        if not free or self._start is None:
            return False
        self._bill.begin()
        self._start(free)
        return True

    def _wake(self) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    def began(self, prompt_tokens: int) -> None:
        """The request has begun, with so many tokens of its prompt to work on."""
        self._until = None
        self._bill.use(prompt_tokens * PROMPT_WEIGHT)

    def progress(self, tokens: int) -> None:
        """The request was served so many tokens: the hot path."""
        self._until = None
        self._bill.use(tokens * OUTPUT_WEIGHT)

    def refused(self, error: MeshError) -> None:
        """The worker had no room after all: the next turn is that of the same place, and nothing is charged."""
        self.refusal = error
        self._bill.refund()

    def abort(self, error: MeshError) -> None:
        """Let `turn` raise this error, now or when it is called."""
        self._error = error
        if self.waiting:
            self._failure = error
            self._queue.leave(self)
            self._wake()

    def close(self) -> None:
        """The end of the request. Once."""
        self._bill.close()
        self._queue.places -= 1
        self._on_close(self._queue)
