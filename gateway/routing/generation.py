"""One request from its first attempt to its last token, over as many workers as it takes.

The only place that decides whether a request is tried again. It keeps the token ids of every choice. When the worker is
lost, frozen or draining, refuses, or breaks the protocol, it starts the same request elsewhere with `resume`, on a
worker with the same fingerprint, so that what follows is what the first worker would have sent: tokens come from a
counter-based generator whose seed is part of the request. Events of an attempt that was left cannot arrive any more:
its stream is forgotten.

Where the model has a limit for the first token, a request that gets none in that time is started on a second worker
beside the first (`hedge.py`). The first to bring a token goes on alone; a fault of the one leaves the other.

A worker that says `text_only`, one that passes a provider's text on, tells no token ids. Its answer can move until its
first text has been sent; after that a fault ends it with an error, since another worker would repeat or change text.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from gateway.routing import clock
from gateway.routing.attempts import Attempts
from gateway.routing.claim import Claim
from gateway.routing.directory import unknown_model
from gateway.routing.dispatch import Dispatch
from gateway.routing.events import Event, Token
from gateway.routing.hedge import Hedge
from gateway.routing.keeping import NOWHERE, Keeping
from gateway.routing.quarantine import PROVEN_TOKENS
from gateway.routing.race import Race
from gateway.routing.run import Run
from gateway.routing.session import Session
from gateway.routing.stream import Stream, Trouble
from gateway.routing.trail import Attempt
from mesh.answer import Answer, Violation, WrongModel, error_of
from mesh.errors import ErrorKind, MeshError
from mesh.log import kv
from mesh.trace import Span
from mesh.v1 import inference_pb2 as pb

log = logging.getLogger(__name__)

# Tokens that are charged together: to find the tenant's counter for each is a tenth of what a token costs in Python.
_PAID_TOKENS = 16


class Reader(Protocol):
    """Whoever takes tokens in the moment that they arrive."""

    def ready(self) -> bool:
        """Whether it can, now."""
        ...

    def take(self, events: Sequence[Event]) -> None:
        """Take them. Quick, and never waits."""
        ...


class Generation:
    """One request. Call `next` until `done`, then or earlier `close`; its events are those of a single, perfect worker.

    `streamed`: whether a client reads along, whose pace must then be told with `delivered`. `keeping`: if that client
    may come back, or has come back.
    """

    __slots__ = (
        "_answer",
        "_attempts",
        "_cause",
        "_closed",
        "_credit",
        "_dispatch",
        "_error",
        "_failures",
        "_race",
        "_read",
        "_reader",
        "_request",
        "_run",
        "_stream",
        "_undelivered",
        "_unpaid",
        "resumes",
    )

    def __init__(
        self,
        request: pb.GenerateRequest,
        dispatch: Dispatch,
        *,
        streamed: bool,
        claim: Claim | None = None,
        keeping: Keeping | None = None,
        span: Span | None = None,
    ) -> None:
        self.resumes = 0
        self._request = request
        self._dispatch = dispatch
        self._answer = Answer(request)
        self._attempts = Attempts(
            request, self._answer, dispatch, claim or Claim(), streamed=streamed, keeping=keeping, span=span
        )
        self._credit = self._attempts.credit
        self._race = Race(request.model, self._attempts, self._answer, dispatch)
        # The attempt whose events are taken, with its stream.
        self._run: Run | None = None
        self._stream: Stream[Session] | None = None
        self._read = 0
        self._undelivered = 0
        self._unpaid = 0
        self._failures = 0
        self._cause: Trouble | None = None
        self._error: Exception | None = None
        self._reader: Reader | None = None
        self._closed = False

    @property
    def model(self) -> str:
        """The model asked for."""
        return self._request.model

    @property
    def attempts(self) -> int:
        """Workers that were asked."""
        return len(self._attempts.trail)

    @property
    def hedge(self) -> Hedge | None:
        """What became of a second worker, if the first token was late."""
        return self._race.outcome

    @property
    def started(self) -> pb.Started | None:
        """The facts about the prompt, once they are known."""
        return self._answer.started

    @property
    def trail(self) -> list[Attempt]:
        """Its attempts so far."""
        if self._run is not None:
            self._run.attempt.end("finished" if self.done else "running", self.completion_tokens)
        return self._attempts.trail

    @property
    def done(self) -> bool:
        """Whether the last event has been returned."""
        return self._answer.done

    @property
    def completion_tokens(self) -> int:
        """Tokens so far, over all choices."""
        return self._answer.tokens

    @property
    def worker_id(self) -> str:
        """The worker that it runs on, or empty."""
        return self._stream.session.worker_id if self._stream is not None else ""

    @property
    def kept_at(self) -> bytes:
        """The tag of the worker that keeps it for a client that may come back, if one does."""
        return self._stream.session.tag if self._stream is not None and self._stream.kept else NOWHERE

    def started_of(self, choice: int) -> pb.Started:
        """The facts about the prompt of a choice, which must have started."""
        assert self.started is not None
        return self.started

    async def next(self) -> list[Event]:
        """The next events, at least one. The first is Started, the last Finished. Raises MeshError when all is lost."""
        while True:
            if self._error is not None:
                raise self._error
            stream = self._stream or await self._begin()
            if self._race.rival is not None:
                await self._wait_for_either(stream)
            elif not stream.events:
                await stream.wait()
            if stream is not self._stream:
                continue  # it was left while its tokens were taken at once
            if stream.events:
                events = self._take(stream)
                if events:
                    return events
            elif stream.lost is not None:
                finished = self._answer.finish_alone()
                if finished:
                    return [*finished]
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
        self._attempts.placement.abort(error)
        if self._stream is not None:
            self._stream.wake()

    def close(self) -> None:
        """End it, whatever its state: the worker is told within the same moment."""
        if not self._closed:
            self._closed = True
            self._race.stop("cancelled")
            if not self.done and self._stream is not None and self._stream.kept:
                self._end_attempt("kept", keep=True)
            else:
                self._end_attempt("finished" if self.done else "failed" if self._error is not None else "cancelled")
            self._attempts.close()

    # Attempts

    async def _begin(self) -> Stream[Session]:
        """Start an attempt on a worker; waits for one if need be."""
        second = self._race.take_second()
        if second is not None:
            self._go_on_with(second)
        else:
            await self._attempts.find(self._start)
        assert self._stream is not None
        if self._cause is not None:
            self._note_move(self._stream.session)
        return self._stream

    def _start(self, session: Session) -> None:
        run = self._attempts.launch(session)
        self._go_on_with(run)
        self._race.expect(run.stream)

    async def _wait_for_either(self, stream: Stream[Session]) -> None:
        """Two workers have the request: go on with the first to bring a token."""
        self._settle(stream)
        if self._race.rival is not None and not stream.events:
            await stream.wait()
            self._settle(stream)

    def _settle(self, stream: Stream[Session]) -> None:
        second = self._race.settle(stream)
        if second is not None:
            self._end_attempt("outrun")
            self._go_on_with(second)

    def _go_on_with(self, run: Run) -> None:
        """Take the events of this attempt from now on."""
        self._undelivered = self._read = 0
        self._answer.begin_attempt(self._attempts.fingerprint(run.stream.session))
        run.stream.take_at_once = self._take_at_once
        self._run, self._stream = run, run.stream

    def _note_move(self, session: Session) -> None:
        cause, self._cause = self._cause, None
        if cause is None or self.started is None:
            return
        self.resumes += 1
        self._dispatch.metrics.resumes.labels(self.model, cause.value).inc()
        log.info(
            "generation moved", extra=kv(cause=cause.value, worker=session.worker_id, tokens=self.completion_tokens)
        )

    def _end_attempt(self, outcome: str, *, keep: bool = False) -> None:
        self._pay()
        run, self._run, self._stream = self._run, None, None
        self._race.disarm()
        if run is not None:
            self._attempts.end(run, outcome, keep=keep)

    def _leave(self, stream: Stream[Session], cause: Trouble, error: MeshError) -> None:
        """Give up this attempt; `next` makes another one, unless there were too many."""
        self._end_attempt(self._attempts.blame(stream, cause, error))
        self._cause = cause
        if self._answer.pinned:
            self._error = error
            return
        if cause is Trouble.DRAINING or error.kind is ErrorKind.OVERLOADED:
            return  # bounded by the time without a worker instead
        self._failures += 1
        if self._failures > self._dispatch.max_attempts:
            self._error = error

    # Events

    def _take(self, stream: Stream[Session], *, tokens_only: bool = False) -> list[Event]:
        """The hot path: note what arrived and return what the client is to see. With `tokens_only`, what is no token
        stays on the stream with all that follows it."""
        arrived, stream.events = stream.events, []
        events: list[Event] = []
        taken = 0
        try:
            for place, event in enumerate(arrived):
                if type(event) is Token:
                    self._answer.take_token(event.token_id, event.position)
                    events.append(event)
                    taken += 1
                elif event.HasField("delta"):
                    taken += self._answer.take_delta(event.delta, events)
                elif tokens_only:
                    stream.events = arrived[place:]
                    break
                elif event.HasField("failed"):
                    stream.ended = True
                    self._take_failure(stream, event.failed)
                    break
                else:
                    self._answer.take(event, events)
                    if self._answer.done:
                        stream.ended = True
                        self._dispatch.outliers.succeeded(stream.session)
                        break
        except (Violation, WrongModel) as found:
            self._distrust(stream, found)
        self._read += taken
        if stream.credit is not None:
            stream.credit -= taken
        if taken and not stream.proven:
            self._prove(stream, taken)
        if events:
            if not self._attempts.placement.begun and self.started is not None:
                self._dispatch.balancer.started(self._attempts.prompt, self.started)
                self._attempts.placement.began(stream.session, self.started.prompt_tokens - self.started.cached_tokens)
            self._unpaid += taken
            if self._unpaid >= _PAID_TOKENS:
                self._pay()
        if stream.session.draining and not stream.ended and self._stream is stream:
            self._look_for_trouble(stream)
        return events

    def _pay(self) -> None:
        """Charge the tenant for the tokens since the last time."""
        if self._unpaid:
            self._attempts.placement.progress(self._unpaid)
            self._unpaid = 0

    def _prove(self, stream: Stream[Session], taken: int) -> None:
        stream.flowing = self._answer.steady
        stream.taken += taken
        if stream.taken >= PROVEN_TOKENS:
            stream.proven = True
            self._attempts.suspicion.clear()

    def _take_at_once(self) -> bool:
        """The hottest path: tokens go to the reader in the call that received them. All else is left to `next`."""
        stream, reader = self._stream, self._reader
        if stream is None or reader is None or self._race.rival is not None:
            return False
        if stream.session.draining or not reader.ready():
            return False
        try:
            events = self._take(stream, tokens_only=True)
            if events:
                reader.take(events)
        except Exception as error:  # it must not end the session, on which other streams are
            self._error = error
            return False
        self.delivered()
        return self._stream is stream and not stream.events

    def _distrust(self, stream: Stream[Session], found: Violation | WrongModel) -> None:
        worker_id = stream.session.worker_id
        log.error("a worker broke the protocol", extra=kv(worker=worker_id, why=str(found)))
        if isinstance(found, WrongModel):
            cause, kind = Trouble.REFUSED, ErrorKind.WRONG_MODEL
        else:
            cause, kind = Trouble.PROTOCOL, ErrorKind.PROTOCOL_ERROR
        self._leave(stream, cause, MeshError(kind, f"worker '{worker_id}' {found}"))

    def _take_failure(self, stream: Stream[Session], failure: pb.Failure) -> None:
        error = error_of(failure)
        if error.kind is ErrorKind.MODEL_NOT_FOUND:
            error = unknown_model(self.model)  # a worker's own words name all that it serves
        if error.kind is ErrorKind.DRAINING:
            stream.session.stop_routing()
            self._leave(stream, Trouble.DRAINING, error)
        elif error.kind.value.retry_elsewhere or error.kind is ErrorKind.MODEL_NOT_FOUND:
            # The registry said that the model is there: the worker has just let it go, and others may have it.
            self._leave(stream, Trouble.REFUSED, error)
        else:
            self._error = error

    def _look_for_trouble(self, stream: Stream[Session]) -> None:
        """Leave a frozen or draining worker if there is another one; without one, wait for as long as is sensible.

        One that has forgotten the request may be asked again: it is well otherwise.
        """
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
        again = trouble is Trouble.FORGOTTEN and not self._answer.pinned
        if may_leave and (again or self._attempts.placement.elsewhere(session)):
            self._leave(stream, trouble, error)
        elif trouble is not Trouble.DRAINING and seconds > self._dispatch.stall_ceiling:
            self._end_attempt(trouble.value)
            self._error = error
