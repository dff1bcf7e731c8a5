"""All live streams of a worker, whichever way they came: from here events find their way back, and here they end."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from mesh.engine.base import Engine, Failed, Finished, Step
from mesh.errors import ErrorKind, MeshError
from mesh.log import kv
from mesh.metrics import WorkerMetrics
from mesh.trace import Spans
from mesh.v1 import inference_pb2 as pb
from mesh.worker.convert import find_model, to_request
from mesh.worker.keeper import Keeper
from mesh.worker.report import end_span, report
from mesh.worker.stream import Sink, Stream

log = logging.getLogger(__name__)

Outcome = Literal["finished", "cancelled", "failed"]


@dataclass(slots=True)
class Counts:
    """Streams since start."""

    started: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0


class Streams:
    """The table of live streams. Everything runs on the event loop's thread."""

    def __init__(self, engine: Engine, metrics: WorkerMetrics, spans: Spans | None = None) -> None:
        self.engine = engine
        self._spans = spans
        self.counts = Counts()
        self.draining = False
        self._live: dict[int, Stream] = {}
        self._sinks: set[Sink] = set()
        self._keys = itertools.count(1)
        self._calls = 0
        self._outcomes = {name: metrics.streams.labels(name) for name in ("finished", "cancelled", "failed")}
        self._empty = asyncio.Event()
        self._empty.set()
        self._keeper = Keeper(self.cancel)
        metrics.kept_streams.set_function(lambda: len(self._keeper))
        metrics.live_streams.set_function(lambda: len(self._live))

    def __len__(self) -> int:
        return len(self._live)

    @property
    def busy(self) -> bool:
        """Whether a stream or a call is live."""
        return bool(self._live or self._calls)

    def count(self, fingerprint: str) -> int:
        """Live streams of the model with that fingerprint."""
        return sum(stream.fingerprint == fingerprint for stream in self._live.values())

    def attach(self, sink: Sink) -> None:
        """Let a sink hear of draining."""
        self._sinks.add(sink)

    def detach(self, sink: Sink) -> None:
        """The sink's client is gone."""
        self._sinks.discard(sink)

    def open(self, sink: Sink, stream_id: int = 0) -> Stream:
        """Make a stream. It must be submitted or ended next."""
        stream = Stream(next(self._keys), sink, stream_id)
        self._live[stream.key] = stream
        self._empty.clear()
        self.counts.started += 1
        return stream

    async def submit(
        self,
        stream: Stream,
        wire: pb.GenerateRequest,
        *,
        credit: int | None = None,
        deadline: float | None = None,
        keep: pb.Keep | None = None,
    ) -> None:
        """Hand a request to the engine. Raises MeshError, and then the stream has ended.

        A stream that is ended while the engine thinks stays ended: the engine is told to forget it. `deadline` is the
        call's own, a time of time.monotonic(); the earlier one counts.
        """
        stream.request_id, stream.attempt = wire.request_id, wire.attempt
        if self._spans is not None:
            stream.span = self._spans.start("generate", wire.traceparent)
            stream.steps_before = self.engine.load().steps
        try:
            if keep is not None:
                self._keeper.keep(stream, keep, wire, credit)
            await self._submit(stream, wire, credit, deadline)
        except MeshError as error:
            self._end(stream, "failed", error=error)
            raise
        except Exception:
            log.exception("the engine could not accept a request", extra=kv(request_id=wire.request_id))
            refusal = MeshError(ErrorKind.ENGINE_FAILED, "the engine could not accept the request")
            self._end(stream, "failed", error=refusal)
            raise refusal from None
        finally:
            if not stream.live:
                self.engine.cancel(stream.key)

    async def _submit(
        self, stream: Stream, wire: pb.GenerateRequest, credit: int | None, deadline: float | None
    ) -> None:
        if self.draining:
            raise MeshError(ErrorKind.DRAINING, "this worker is draining and takes no new requests")
        model = find_model(self.engine.models, wire.model, wire.adapter)
        request = to_request(wire, model, key=stream.key, credit=credit)
        if deadline is not None:
            earliest = deadline if request.deadline is None else min(deadline, request.deadline)
            request = replace(request, deadline=earliest)
        stream.model, stream.request_id = model, request.request_id
        await self.engine.submit(request)
        stream.submitted = True
        if stream.live and stream.early_credit:
            self.engine.grant(stream.key, stream.early_credit)

    def grant(self, stream: Stream, tokens: int) -> None:
        """Allow more tokens. Does nothing if the stream has ended."""
        if stream.kept is not None:
            tokens = stream.kept.grant(tokens)
            if not tokens:
                return
        if not stream.submitted:
            stream.early_credit += tokens
        elif stream.live:
            self.engine.grant(stream.key, tokens)

    def cancel(self, stream: Stream) -> None:
        """The client wants no more of it. Does nothing if the stream has ended."""
        if stream.live:
            self._end(stream, "cancelled")
            self.engine.cancel(stream.key)

    def lose(self, stream: Stream) -> None:
        """The client is gone and may come back: a stream that is not kept for that is cancelled."""
        if stream.live and (self.draining or not self._keeper.leave(stream)):
            self.cancel(stream)

    def take_over(self, start: pb.StreamStart) -> Stream | None:
        """The kept stream that a start asks for, taken from the client that it has had so far; None if there is none.

        The caller becomes its sink, and has its events so far to send.
        """
        stream = self._keeper.find(start) if start.HasField("keep") and start.HasField("credit") else None
        if stream is None or stream.kept is None:
            return None
        if stream.live:
            stream.sink.fail(stream, MeshError(ErrorKind.TAKEN_OVER, "the client goes on over another connection"))
            self.engine.grant(stream.key, stream.kept.replay(start.credit))
        return stream

    def on_step(self, step: Step) -> None:
        """The engine's listener: one call per step."""
        live = self._live
        touched: dict[Sink, None] = {}  # in order of first appearance
        for event in step.events:
            stream = live.get(event.key)
            if stream is None:
                continue
            try:
                stream.sink.add(stream, event)
                if stream.kept is not None:
                    self._keeper.record(stream, event)
            except Exception as error:
                self._broken(stream, error)
            touched[stream.sink] = None
            if isinstance(event, Finished):
                self._end(stream, "finished", finished=event)
            elif isinstance(event, Failed):
                self._end(stream, "failed", error=event.error)
        for sink in touched:
            sink.flush(step)

    @contextmanager
    def call(self) -> Generator[None]:
        """A call that is no stream, for as long as it lasts: a drain waits for it. Raises MeshError while draining."""
        if self.draining:
            raise MeshError(ErrorKind.DRAINING, "this worker is draining and takes no new requests")
        self._calls += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._calls -= 1
            self._note_if_empty()

    def drain(self) -> None:
        """Refuse new streams from now on, and say so to everybody."""
        self.draining = True
        self._keeper.drain()
        for sink in self._sinks:
            sink.drain()

    def undrain(self) -> None:
        """Take new streams again, and say so to everybody."""
        self.draining = False
        for sink in self._sinks:
            sink.undrain()

    def fail_all(self, error: MeshError) -> None:
        """End every live stream with an error."""
        for stream in list(self._live.values()):
            self._end(stream, "failed", error=error)
            self.engine.cancel(stream.key)
            stream.sink.fail(stream, error)

    async def wait_empty(self) -> None:
        """Until no stream and no call is live. Meant for after `drain`, under the caller's limit."""
        await self._empty.wait()

    def _end(
        self, stream: Stream, outcome: Outcome, *, finished: Finished | None = None, error: MeshError | None = None
    ) -> None:
        if not stream.live:
            return
        stream.live = False
        del self._live[stream.key]
        if outcome == "finished":
            self._keeper.ended(stream)
        else:
            self._keeper.forget(stream)
        self._note_if_empty()
        setattr(self.counts, outcome, getattr(self.counts, outcome) + 1)
        self._outcomes[outcome].inc()
        report(stream, outcome, finished, error)
        if stream.span is not None:
            end_span(stream.span, finished, error, steps=self.engine.load().steps - stream.steps_before)

    def _note_if_empty(self) -> None:
        if not self.busy:
            self._empty.set()

    def _broken(self, stream: Stream, error: Exception) -> None:
        """An event that cannot be sent, a bug of the engine, ends its own stream and no other."""
        log.error("cannot send an event of stream %d", stream.key, exc_info=error)
        failure = MeshError(ErrorKind.ENGINE_FAILED, "the engine produced an event that cannot be sent")
        self._end(stream, "failed", error=failure)
        self.engine.cancel(stream.key)
        stream.sink.fail(stream, failure)
