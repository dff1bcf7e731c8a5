"""The attempts of one request: where the next may go, what it is sent, and what the end of one says of its worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.routing.capability import needs
from gateway.routing.claim import Claim
from gateway.routing.dispatch import Dispatch
from gateway.routing.keeping import NOWHERE, Keeping
from gateway.routing.placement import Placement
from gateway.routing.prefix import Prompt
from gateway.routing.quarantine import Suspicion
from gateway.routing.run import Run
from gateway.routing.session import Session
from gateway.routing.stream import Stream, Trouble
from gateway.routing.trail import Attempt
from mesh.answer import Answer
from mesh.errors import ErrorKind, MeshError
from mesh.trace import Span
from mesh.v1 import inference_pb2 as pb

# However many choices share a credit, it must not stop the worker before news of the reader can arrive.
_LEAST_STEPS_AHEAD = 16
# After these the worker may be dead.
_DEATHS = frozenset({Trouble.LOST, Trouble.SILENT, Trouble.STALLED})
_FAULTS = _DEATHS | {Trouble.FORGOTTEN, Trouble.PROTOCOL}
_RESUME = frozenset({pb.CAPABILITY_RESUME})


class Attempts:
    """See the module. Its owner keeps the runs and ends them; close it, once."""

    def __init__(
        self,
        request: pb.GenerateRequest,
        answer: Answer,
        dispatch: Dispatch,
        claim: Claim,
        *,
        streamed: bool,
        keeping: Keeping | None,
        span: Span | None,
    ) -> None:
        # In order; the last ones may be under way.
        self.trail: list[Attempt] = []
        self.prompt = Prompt(request)
        self.credit = max(dispatch.credit, len(answer.choices) * _LEAST_STEPS_AHEAD) if streamed else None
        self.placement = Placement(self.prompt, dispatch, needs(request), self._live, claim)
        self.suspicion = Suspicion(request, dispatch.quarantine, dispatch.directory)
        self._request = request
        self._answer = answer
        self._dispatch = dispatch
        self._claim = claim
        self._needs = needs(request)
        self._keeping = keeping
        self._span = span

    @property
    def comes_back(self) -> bool:
        """Whether the client has a part of the answer, which a worker may have kept."""
        return self._keeping is not None and self._keeping.worker != NOWHERE

    async def find(self, start: Callable[[Session], None]) -> None:
        """Let `start` begin the next one on a worker; waits for one if need be. Raises MeshError."""
        if not self.trail:
            self._dispatch.quarantine.check(self._request)
        await self.suspicion.judge()
        await self.placement.find(start)

    def second(self, here: Session) -> Session | None:
        """A worker with a free place that may begin the same beside this one."""
        return self.placement.second(here, self.fingerprint)

    def launch(self, session: Session) -> Run:
        """Start one there."""
        request = self._resumed() if self._answer.started is not None else self._request
        self._claim.limit(request)
        span = self._span.child("attempt") if self._span is not None else None
        if span is not None:
            request.traceparent = span.traceparent
        rows, tokens = self._answer.open_rows, self.prompt.tokens
        stream = session.start(request, rows=rows, credit=self.credit, tokens=tokens, keep=self._keep())
        stream.strikes = self.suspicion.count
        run = Run(stream, self._answer.tokens, span)
        self.trail.append(run.attempt)
        return run

    def end(self, run: Run, outcome: str, *, keep: bool = False) -> None:
        """One is over, whatever has come of it."""
        run.end(outcome, self._answer.tokens, keep=keep)
        self._dispatch.metrics.attempts.labels(self._request.model, outcome).inc()

    def blame(self, stream: Stream[Session], cause: Trouble, error: MeshError) -> str:
        """One was given up: hold it against the worker, as far as it is at fault. Returns the outcome."""
        refused = cause is Trouble.REFUSED
        self.placement.left(stream.session, error, refused=refused)
        if not refused and cause is not Trouble.DRAINING:
            self.placement.avoid(stream.session)
        if cause in _FAULTS or error.kind is ErrorKind.ENGINE_FAILED:
            self._dispatch.outliers.failed(stream.session, whole=cause in _DEATHS)
        broken_down = error.kind is ErrorKind.ENGINE_FAILED and stream.session.draining
        if cause in _DEATHS or broken_down:
            self.suspicion.strike(stream.session, stream.session.epoch, stream)
        return error.code if refused else cause.value

    def fingerprint(self, session: Session) -> str:
        """The model that one there must answer with: the one that has begun, or the one that is registered."""
        if self._answer.started is not None:
            return self._answer.started.fingerprint
        served = session.models.get(self._request.model)
        return served.fingerprint if served is not None else ""

    def close(self) -> None:
        """The end of the request."""
        self.suspicion.clear()
        self.placement.close()

    def _keep(self) -> pb.Keep | None:
        """Whether the worker is to keep it. What was begun elsewhere is not kept: its first events are not there."""
        keeping = self._keeping
        if keeping is None or keeping.key is None or self._answer.started is not None:
            return None
        return pb.Keep(key=keeping.key, seconds=keeping.seconds)

    def _resumed(self) -> pb.GenerateRequest:
        request = pb.GenerateRequest()
        request.CopyFrom(self._request)
        request.attempt = len(self.trail)
        self._answer.add_progress(request)
        return request

    def _live(self) -> Sequence[Session]:
        """Workers that can take the request as far as it has come."""
        answer = self._answer
        if answer.pinned:
            return ()
        fingerprint = answer.started.fingerprint if answer.started is not None else self._begun_with()
        if fingerprint is None:
            return ()
        wanted = self._needs | _RESUME if answer.resumable_only else self._needs
        live = self._dispatch.directory.live(self._request.model, fingerprint=fingerprint, needs=wanted)
        return self.suspicion.places(live if self.trail else self._at_home(live))

    def _begun_with(self) -> str | None:
        """The model that must answer, if the client has a part of the answer; empty: any; None: it is not here."""
        if self._keeping is None or self._keeping.model == NOWHERE:
            return ""
        return self._dispatch.directory.fingerprint(self._request.model, self._keeping.model)

    def _at_home(self, live: Sequence[Session]) -> Sequence[Session]:
        """Of these the one that may have kept the answer, if its client has come back and it is there."""
        home = self._keeping.worker if self._keeping is not None else NOWHERE
        return live if home == NOWHERE else ([session for session in live if session.tag == home] or live)
