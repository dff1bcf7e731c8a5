"""One request from its first attempt to its last token, over as many workers as it takes.

The only place that decides whether a request is tried again. It keeps the token ids of every choice. When the worker is
lost, frozen or draining, or refuses, it starts the same request elsewhere with `resume`, on a worker with the same
fingerprint, so that what follows is what the first worker would have sent: tokens come from a counter-based generator
whose seed is part of the request. Events of an attempt that was left cannot arrive any more: its stream is forgotten.

A worker that says `text_only`, one that passes a provider's text on, tells no token ids. Its answer can move until its
first text has been sent; after that a fault ends it with an error, since another worker would repeat or change text.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.routing import clock
from gateway.routing.balance import Policy
from gateway.routing.capability import needs
from gateway.routing.claim import Claim
from gateway.routing.directory import Directory
from gateway.routing.hold import HoldQueue
from gateway.routing.session import Session, Stream, Trouble
from mesh.errors import ErrorKind, MeshError
from mesh.log import kv
from mesh.metrics import GatewayMetrics
from mesh.v1 import inference_pb2 as pb

log = logging.getLogger(__name__)

Event = pb.Started | pb.Delta | pb.ChoiceFinished | pb.Finished

# However many choices share a credit, it must not stop the worker before news of the reader can arrive.
_LEAST_STEPS_AHEAD = 16
# A worker that restarts is back within seconds.
RETRY_AFTER_SECONDS = 1.0
# Pause before all workers are asked again which have said that they are overloaded, for a request whose client
# already reads and cannot be told to come back.
_OVERLOADED_PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class Dispatch:
    """What generations share."""

    directory: Directory
    hold: HoldQueue
    metrics: GatewayMetrics
    policy: Policy
    max_attempts: int
    credit: int
    stall_ceiling: float
    embed_timeout: float


class Reader(Protocol):
    """Whoever takes tokens in the moment that they arrive."""

    @property
    def ready(self) -> bool:
        """Whether it can, now."""
        ...

    def take(self, events: Sequence[Event]) -> None:
        """Take them. Quick, and never waits."""
        ...


@dataclass(slots=True)
class Choice:
    """What one choice has produced."""

    token_ids: list[int] = field(default_factory=list[int])
    finished: bool = False
    # Text that a choice releases at its end comes in a delta without tokens. It waits for the end, as a resumed
    # worker would release it once more.
    tail: list[pb.Delta] = field(default_factory=list[pb.Delta])


class Generation:
    """One request. Call `next` until `done`, then or earlier `close`; its events are those of a single, perfect worker.

    `streamed`: whether a client reads along, whose pace must then be told with `delivered`.
    """

    def __init__(
        self, request: pb.GenerateRequest, dispatch: Dispatch, *, streamed: bool, claim: Claim | None = None
    ) -> None:
        self.done = False
        self.started: pb.Started | None = None
        self.attempts = 0
        self.resumes = 0
        self._request = request
        self._claim = claim or Claim()
        self._dispatch = dispatch
        self._directory = dispatch.directory
        choices = max(1, request.sampling.n)
        self._credit = max(dispatch.credit, choices * _LEAST_STEPS_AHEAD) if streamed else None
        self._choices = [Choice() for _ in range(choices)]
        self._rows = max(choices, request.sampling.best_of)
        self._needs = needs(request)
        self._stream: Stream | None = None
        self._read = 0
        self._undelivered = 0
        self._failures = 0
        # Epochs of sessions that were left, with the worker's own refusal if there was one.
        self._tried: dict[int, MeshError | None] = {}
        self._impostors: set[int] = set()
        self._cause: Trouble | None = None
        self._error: Exception | None = None
        self._reader: Reader | None = None
        # Until when a worker must be found, while there is none.
        self._deadline: float | None = None
        self._closed = False
        self._text_only = False
        # Text without token ids has gone out: no other worker can go on from there.
        self._pinned = False
        self._told_tokens = 0  # of a text-only answer, by its Finished

    @property
    def model(self) -> str:
        """The model asked for."""
        return self._request.model

    @property
    def completion_tokens(self) -> int:
        """Tokens so far, over all choices."""
        return self._told_tokens or sum(len(choice.token_ids) for choice in self._choices)

    @property
    def worker_id(self) -> str:
        """The worker that it runs on, or empty."""
        return self._stream.session.worker_id if self._stream is not None else ""

    def prompt_logprobs(self, choice: int) -> Sequence[pb.TokenLogprob]:
        """Those of the prompt of a choice, when they were asked for; it must have started."""
        return self.started.prompt_logprobs if self.started is not None else ()

    async def next(self) -> list[Event]:
        """The next events, at least one. The first is Started, the last Finished. Raises MeshError when all is lost."""
        while True:
            if self._error is not None:
                raise self._error
            stream = self._stream or await self._begin()
            if not stream.events:
                await stream.wait()
            if stream.events:
                events = self._take(stream)
                if events:
                    return events
            elif stream.lost is not None:
                finished = self._all_finished()
                if finished:
                    return finished
                self._leave(stream, Trouble.LOST, stream.lost)
            else:
                self._look_for_trouble(stream)

    def follow(self, reader: Reader) -> None:
        """From now on the reader gets the tokens that arrive while `next` waits, if it is ready, and `next` waits on.

        To wake the task behind `next` for each token costs more than all else that is done for it.
        """
        self._reader = reader

    def delivered(self) -> None:
        """All events returned so far have gone out to the client: the worker may send as many tokens more."""
        self._undelivered += self._read
        self._read = 0
        if self._credit is not None and self._stream is not None and self._undelivered * 2 >= self._credit:
            self._stream.grant(self._undelivered)
            self._undelivered = 0

    def abort(self, error: MeshError) -> None:
        """Let `next` raise this error, also where it waits now."""
        self._error = error
        if self._stream is not None:
            self._stream.wake()
        self._directory.wake(self.model)

    def close(self) -> None:
        """End it, whatever its state: the worker is told within the same moment."""
        if not self._closed:
            self._closed = True
            self._end_attempt("finished" if self.done else "failed" if self._error is not None else "cancelled")

    # Attempts

    async def _begin(self) -> Stream:
        """Start an attempt on a worker; waits for one if need be."""
        self._claim.check()
        session = await self._choose()
        request = self._attempt_request() if self.started is not None else self._request
        self._claim.limit(request)
        self.attempts += 1
        self._undelivered = self._read = 0
        stream = session.start(request, rows=self._open_rows(), credit=self._credit)
        stream.take_at_once = self._take_at_once
        self._stream = stream
        if self._cause is not None:
            self._note_move(session)
        return stream

    def _note_move(self, session: Session) -> None:
        cause, self._cause = self._cause, None
        if cause is None or self.started is None:
            return
        self.resumes += 1
        self._dispatch.metrics.resumes.labels(self.model, cause.value).inc()
        log.info(
            "generation moved", extra=kv(cause=cause.value, worker=session.worker_id, tokens=self.completion_tokens)
        )

    def _attempt_request(self) -> pb.GenerateRequest:
        """The same request with what there is already; limits such as max_tokens count from the beginning."""
        assert self.started is not None
        request = pb.GenerateRequest()
        request.CopyFrom(self._request)
        request.attempt = self.attempts
        request.expected_fingerprint = self.started.fingerprint
        for index, choice in enumerate(self._choices):
            if choice.token_ids or choice.finished:
                request.resume.choices.add(choice=index, token_ids=choice.token_ids, finished=choice.finished)
        return request

    def _open_rows(self) -> int:
        if self._rows > len(self._choices):
            return self._rows
        return sum(not choice.finished for choice in self._choices) or 1

    def _end_attempt(self, outcome: str) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
            self._dispatch.metrics.attempts.labels(self.model, outcome).inc()

    def _leave(self, stream: Stream, cause: Trouble, error: MeshError) -> None:
        """Give up this attempt; `next` makes another one, unless there were too many."""
        refusal = error if cause is Trouble.REFUSED else None
        self._tried[stream.session.epoch] = refusal
        if error.kind is ErrorKind.WRONG_MODEL:
            self._impostors.add(stream.session.epoch)
        self._end_attempt(error.code if refusal is not None else cause.value)
        self._cause = cause
        for choice in self._choices:
            choice.tail.clear()
        if self._pinned:
            self._error = error
            return
        if cause is Trouble.DRAINING or (self.started is not None and error.kind is ErrorKind.OVERLOADED):
            return  # bounded by the time without a worker instead
        self._failures += 1
        if self._failures > self._dispatch.max_attempts:
            self._error = error

    # Events

    def _take(self, stream: Stream) -> list[Event]:
        """The hot path: note what arrived and return what the client is to see."""
        arrived, stream.events = stream.events, []
        events: list[Event] = []
        for event in arrived:
            match event.WhichOneof("event"):
                case "delta":
                    self._take_delta(stream, event.delta, events)
                case "started":
                    if not self._take_started(stream, event.started, events):
                        break
                case "choice_finished":
                    choice = self._choices[event.choice_finished.choice]
                    choice.finished = True
                    self._pinned = self._text_only
                    events.extend(choice.tail)
                    events.append(event.choice_finished)
                case "finished":
                    stream.ended = True
                    self.done = True
                    events.append(self._with_told_usage(event.finished))
                case "failed":
                    stream.ended = True
                    self._take_failure(stream, event.failed)
                    break
                case _:
                    pass  # an event of a newer version
        if events:
            self._deadline = None
        if stream.session.draining and not stream.ended and self._stream is stream:
            self._look_for_trouble(stream)
        return events

    def _take_at_once(self) -> bool:
        """The hottest path: tokens go to the reader in the call that received them. All else is left to `next`."""
        stream, reader = self._stream, self._reader
        if stream is None or reader is None or not reader.ready or stream.session.draining:
            return False
        for event in stream.events:
            if not event.HasField("delta"):
                return False
        arrived, stream.events = stream.events, []
        events: list[Event] = []
        try:
            for event in arrived:
                self._take_delta(stream, event.delta, events)
            if events:
                self._deadline = None
                reader.take(events)
        except Exception as error:  # it must not end the session, on which other streams are
            self._error = error
            return False
        self.delivered()
        return True

    def _take_delta(self, stream: Stream, delta: pb.Delta, events: list[Event]) -> None:
        choice = self._choices[delta.choice]
        token_ids = delta.token_ids
        count = len(token_ids)
        if count == 1:
            choice.token_ids.append(token_ids[0])  # a quarter of what `extend` costs
        elif count:
            choice.token_ids.extend(token_ids)
        elif self._text_only:
            self._pinned = True
            count = 1
        else:
            choice.tail.append(delta)
            return
        self._read += count
        if stream.credit is not None:
            stream.credit -= count
        events.append(delta)

    def _take_started(self, stream: Stream, started: pb.Started, events: list[Event]) -> bool:
        """Whether it is the model that began the answer."""
        if self.started is None:
            self.started = started
            self._text_only = started.text_only
            events.append(started)
        elif started.fingerprint != self.started.fingerprint:
            error = MeshError(
                ErrorKind.WRONG_MODEL,
                f"worker '{stream.session.worker_id}' resumed with the model {started.fingerprint} "
                f"instead of {self.started.fingerprint}",
            )
            self._leave(stream, Trouble.REFUSED, error)
            return False
        return True

    def _take_failure(self, stream: Stream, failure: pb.Failure) -> None:
        error = MeshError.from_code(
            failure.code,
            failure.message,
            param=failure.param or None,
            retry_after=failure.retry_after if failure.HasField("retry_after") else None,
        )
        if error.kind is ErrorKind.DRAINING:
            stream.session.stop_routing()
            self._leave(stream, Trouble.DRAINING, error)
        elif error.kind.value.retry_elsewhere or error.kind is ErrorKind.MODEL_NOT_FOUND:
            # The registry said that the model is there: the worker has just let it go, and others may have it.
            self._leave(stream, Trouble.REFUSED, error)
        else:
            self._error = error

    def _with_told_usage(self, finished: pb.Finished) -> pb.Finished:
        """Usage as an undisturbed run reports it: a resumed attempt finds more of the prompt in the prefix cache.

        A text-only answer has its counts from its end alone.
        """
        if self.started is None:
            return finished
        if self._text_only:
            self._told_tokens = finished.usage.completion_tokens
            self.started.prompt_tokens = finished.usage.prompt_tokens
            self.started.cached_tokens = finished.usage.cached_tokens
        else:
            finished.usage.prompt_tokens = self.started.prompt_tokens
            finished.usage.cached_tokens = self.started.cached_tokens
        return finished

    def _all_finished(self) -> list[Event]:
        """If only the last event is missing on a lost worker, it is known without another one."""
        hidden = self._rows > len(self._choices)  # tokens of choices that were not the best
        if self._text_only or hidden or not all(choice.finished for choice in self._choices):
            return []
        self.done = True
        usage = pb.Usage(completion_tokens=self.completion_tokens)
        return [self._with_told_usage(pb.Finished(usage=usage))]

    # Where to

    def _look_for_trouble(self, stream: Stream) -> None:
        """Leave a frozen or draining worker if there is another one; without one, wait for as long as is sensible."""
        session = stream.session
        found = session.trouble(stream, clock.now())
        if found is None:
            return
        trouble, seconds = found
        error = MeshError(
            ErrorKind.WORKER_LOST,
            f"worker '{session.worker_id}' made no progress for {seconds:.1f} s "
            f"(limit {self._dispatch.stall_ceiling:g} s) and no other worker can go on",
        )
        # The last attempt stays where it is: a place that may be frozen is better than none.
        may_leave = trouble is Trouble.DRAINING or self._failures < self._dispatch.max_attempts
        if may_leave and self._fresh(self._live()):
            self._leave(stream, trouble, error)
        elif trouble is not Trouble.DRAINING and seconds > self._dispatch.stall_ceiling:
            self._end_attempt(trouble.value)
            self._error = error

    def _live(self) -> list[Session]:
        """Workers that can take the request as far as it has come; those that run another model in truth cannot."""
        if self._pinned:
            return []
        fingerprint = self.started.fingerprint if self.started is not None else ""
        wanted = self._needs
        if any(choice.token_ids or choice.finished for choice in self._choices):
            wanted |= {pb.CAPABILITY_RESUME}
        live = self._directory.live(self.model, fingerprint=fingerprint, needs=wanted)
        return [session for session in live if session.epoch not in self._impostors]

    def _fresh(self, live: Sequence[Session]) -> list[Session]:
        """Of these the ones not tried yet, and not the one where it runs."""
        here = self._stream.session.epoch if self._stream is not None else 0
        return [session for session in live if session.epoch not in self._tried and session.epoch != here]

    async def _choose(self) -> Session:
        """A worker for the next attempt. Raises MeshError if there is none in time, or if each has refused."""
        if self._deadline is None:
            self._deadline = clock.now() + self._dispatch.hold.timeout
        while True:
            if self._error is not None:
                raise self._error
            live = self._live()
            # A worker that seemed frozen and is live again beats none.
            fresh = self._fresh(live) or [session for session in live if self._tried.get(session.epoch) is None]
            if fresh:
                return self._dispatch.policy(fresh)
            left = self._deadline - clock.now()
            if live:
                await self._after_refusals(live, left)
            else:
                await self._held(left)

    async def _after_refusals(self, live: Sequence[Session], left: float) -> None:
        """Every live worker has refused: pass the refusal on, or ask again if the client cannot be told to."""
        refusals = [error for session in live if (error := self._tried.get(session.epoch)) is not None]
        busy = [error for error in refusals if error.kind is ErrorKind.OVERLOADED]
        if self.started is None or not busy or left <= 0:
            raise busy[0] if busy else refusals[-1]
        await asyncio.sleep(min(left, _OVERLOADED_PAUSE))
        for session in live:
            self._tried.pop(session.epoch, None)

    async def _held(self, left: float) -> None:
        """Wait in the hold queue until something changes."""
        begun = self.started is not None
        if not begun:
            self._directory.check_known(self.model)
            self._directory.check_can(self.model, self._needs)
        with self._dispatch.hold.place(begun=begun):
            if left > 0 and await self._directory.changed(self.model, left):
                return
        timeout = self._dispatch.hold.timeout
        if begun:
            raise MeshError(ErrorKind.WORKER_LOST, f"the worker was lost, and within {timeout:g} s none could go on")
        raise MeshError(
            ErrorKind.NO_WORKER,
            f"no live worker for the model '{self.model}' within {timeout:g} s",
            retry_after=timeout,
        )
