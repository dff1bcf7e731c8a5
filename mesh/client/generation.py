"""One request from its first attempt to its last token, over as many workers as it takes.

The simple counterpart of `gateway/routing/generation.py`: what has come is kept by the same `mesh/answer.py`, and
another worker of the same fingerprint goes on from there by the wire's `resume`.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.answer import Answer, Event, Violation, WrongModel
from mesh.client.placement import Limits, Placement
from mesh.client.request import prepared
from mesh.client.worker import Attempt, Worker
from mesh.client.workers import Workers
from mesh.errors import ErrorKind, MeshError
from mesh.v1 import inference_pb2 as pb

# However many choices share a credit, it must not stop the worker before news of the reader can arrive.
_LEAST_STEPS_AHEAD = 16


class Generation:
    """Call `next` until `done`, then or earlier `close`."""

    def __init__(self, request: pb.GenerateRequest, workers: Workers, limits: Limits) -> None:
        self._request = prepared(request)
        self._answer = Answer(self._request)
        timeout = request.deadline_ms / 1000 if request.HasField("deadline_ms") else None
        self._placement = Placement(workers, request.model, (), limits, timeout)
        self._credit = max(limits.credit, len(self._answer.choices) * _LEAST_STEPS_AHEAD)
        self._attempts = 0
        self._worker: Worker | None = None
        self._attempt: Attempt | None = None
        self._read = 0

    @property
    def done(self) -> bool:
        """Whether the last event has been returned."""
        return self._answer.done

    async def next(self) -> Sequence[Event]:
        """The next events, at least one; those before were read. Raises MeshError when no worker can go on."""
        while True:
            try:
                attempt = self._attempt or await self._begin()
                attempt.grant(self._read)
                self._read = 0
                async with self._placement.deadline():
                    arrived = await attempt.next()
                events = self._take(arrived)
            except MeshError as error:
                events = self._leave(error)
            if events:
                return events
            self._hand_over()

    def close(self) -> None:
        """End it, whatever its state: the worker is told."""
        attempt, self._attempt = self._attempt, None
        worker, self._worker = self._worker, None
        self._read = 0
        if attempt is not None:
            attempt.close()
        if worker is not None:
            worker.live -= 1

    async def _begin(self) -> Attempt:
        worker = self._worker = await self._placement.find()
        worker.live += 1
        left = self._placement.seconds_left
        attempt = self._attempt = await worker.start(self._next_request(left), self._credit)
        self._attempts += 1
        served = worker.served(self._request.model)
        self._answer.begin_attempt(self._placement.fingerprint or (served.fingerprint if served is not None else ""))
        return attempt

    def _next_request(self, left: float | None) -> pb.GenerateRequest:
        request = pb.GenerateRequest()
        request.CopyFrom(self._request)
        request.attempt = self._attempts
        if left is not None:
            request.deadline_ms = max(1, int(left * 1000))
        if self._answer.started is not None:
            self._answer.add_progress(request)
        return request

    def _take(self, arrived: Sequence[pb.StreamEvent] | Sequence[pb.GenerateResponse]) -> list[Event]:
        """What is new of it. Nothing after an event that breaks the protocol is taken: the attempt is over with it."""
        events: list[Event] = []
        try:
            for event in arrived:
                if event.HasField("delta"):
                    self._read += self._answer.take_delta(event.delta, events)
                else:
                    self._answer.take(event, events)
        except (Violation, WrongModel) as found:
            kind = ErrorKind.WRONG_MODEL if isinstance(found, WrongModel) else ErrorKind.PROTOCOL_ERROR
            worker = self._worker
            events += self._leave(MeshError(kind, f"worker '{worker.id if worker is not None else ''}' {found}"))
        self._note_start()
        return events

    def _note_start(self) -> None:
        started = self._answer.started
        if started is not None and self._worker is not None:
            self._placement.fingerprint = started.fingerprint
            self._placement.began(self._worker)
            if self._answer.resumable_only:
                self._placement.needs.add(pb.CAPABILITY_RESUME)

    def _leave(self, error: MeshError) -> list[Event]:
        """The attempt is over; raises the error if that was the last one. An end that is known all the same comes."""
        worker = self._worker
        self.close()
        finished = self._answer.finish_alone()
        if finished:
            return finished
        if self._answer.pinned or worker is None:
            raise error
        self._placement.left(worker, error)
        return []

    def _hand_over(self) -> None:
        """Leave a worker that drains for another one that can go on, if there is one."""
        worker, attempt = self._worker, self._attempt
        if worker is None or attempt is None or not attempt.draining or self._answer.pinned:
            return
        if self._placement.elsewhere(worker):
            self._leave(MeshError(ErrorKind.DRAINING, f"worker '{worker.id}' drains"))
