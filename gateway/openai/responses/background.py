"""Responses in the background: they go on when their client is gone, and on another gateway when theirs is gone.

What the client is to see is written to the store several times a second, and read from there, by whichever gateway. A
gateway that takes one over computes it again with the same seed and goes on behind the last event that was written.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import msgspec
from quart import Response

from gateway.access.guard import Guard
from gateway.errors import ErrorAnswer
from gateway.exchange import Exchange, Exchanges
from gateway.openai.chat_schema import ChatRequest
from gateway.openai.keep_alive import KeepAlive
from gateway.openai.respond import SSE_HEADERS
from gateway.openai.responses.answer import ResponseBody
from gateway.openai.responses.ask import entry, events_of
from gateway.openai.responses.events import ResponseEvents
from gateway.openai.responses.schema import parse_response
from gateway.openai.responses.tools import HostedTools, Toolbox
from gateway.openai.responses.translate import to_chat
from gateway.openai.ways import claim_of, follow, note_model, way_of
from gateway.reconnect import Identity, Reconnect
from gateway.routing.aliases import Way
from gateway.routing.dispatch import Dispatch
from gateway.routing.generation import Generation
from gateway.routing.keeping import Keeping, tag
from gateway.routing.shadow import shadow
from gateway.store.shapes import Job, Kept, Told, Waiting
from gateway.store.stillness import Stillness
from gateway.store.store import Store
from mesh.errors import ErrorKind, MeshError
from mesh.log import bind_request_id, kv
from mesh.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from gateway.store.background import Background

log = logging.getLogger(__name__)

# How often events are written, how often at least a sign of life, and how often readers look, in seconds.
_WRITE_SECONDS: Final = 0.25
_ALIVE_SECONDS: Final = 1.0
_READ_SECONDS: Final = 0.25
# After so long without a sign of life another gateway goes on; and how often it looks for such responses.
_LOST_SECONDS: Final = 6.0
_CLAIM_SECONDS: Final = 2.0
_AT_ONCE: Final = 8  # taken over by one gateway at a time
# A store that cannot be used for longer loses the response to another gateway.
_PATIENCE_SECONDS: Final = 60.0
# Gateways that may die with one before it fails.
_TAKEOVERS: Final = 3


class BackgroundResponses:
    """`run` until cancelled. Owns the tasks of those that run here. `guard` knows the keys, if requests need one."""

    def __init__(
        self, store: Store, dispatch: Dispatch, exchanges: Exchanges, guard: Guard | None, *, hosted: HostedTools
    ) -> None:
        self._store = store
        self._dispatch = dispatch
        self._exchanges = exchanges
        self._guard = guard
        self._hosted: HostedTools = hosted
        self._stillness = Stillness(_LOST_SECONDS)
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Go on with those that other gateways have left."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            while True:
                if self._store.opened or self._store.exists:
                    await self._claim()
                await asyncio.sleep(_CLAIM_SECONDS)

    async def _claim(self) -> None:
        if self._exchanges.draining or (self._guard is not None and not self._guard.ready):
            return
        try:
            background = await self._store.background()
            free = self._stillness.free(await background.waiting(), time.monotonic())
            for each in free[:_AT_ONCE]:
                await self._take_over(background, each)
        except MeshError as error:
            log.warning("responses in the background cannot be looked for", extra=kv(why=error.message))

    async def _take_over(self, background: Background, seen: Waiting) -> None:
        try:
            job = await background.claim(seen)
        except (LookupError, ValueError) as error:  # a record of another version must not end the gateway
            log.error("a response cannot be read", extra=kv(response=seen.id), exc_info=error)
            return
        if job is not None:
            log.info("response taken over", extra=kv(response=job.id, events=job.next, takeovers=job.takeovers))
            self.start(self._exchanges.begin("/v1/responses", job.tenant), job)

    async def begin(self, exchange: Exchange, job: Job, kept: Kept, first: bytes) -> None:
        """Keep a new one with its first events, and work on it from now on."""
        await (await self._store.background()).begin(job, kept, first)
        job.next = Told(0, first).end
        self.start(exchange, job)

    def start(self, exchange: Exchange, job: Job) -> None:
        """Work on one. The exchange is then ended here."""
        assert self._group is not None
        exchange.detached = True
        self._group.create_task(self._work(exchange, job), name=job.id)

    async def _work(self, exchange: Exchange, job: Job) -> None:
        bind_request_id(exchange.request_id)
        try:
            await self._make(exchange, job)
            exchange.finished = True
        except MeshError as error:  # of the store, or of a gateway that stops
            exchange.failed(error)
            log.warning("response left to another gateway", extra=kv(response=job.id, why=error.message))
        except Exception as error:
            exchange.failed(error)
        finally:
            self._exchanges.end(exchange)

    async def _make(self, exchange: Exchange, job: Job) -> None:
        request = parse_response(job.request)
        toolbox = Toolbox(request.tools, hosted=self._hosted)
        body = msgspec.json.decode(job.body, type=ResponseBody)
        body.status, body.output = "queued", []
        chat = to_chat(request, toolbox, [])
        events = events_of(request, chat, toolbox, body)
        writer = _Writer(self._store, job, events)
        writer.add(events.begin())
        try:
            if self._guard is not None and exchange.permit is None:
                self._guard.take_over(exchange)
                note_model(exchange, self._dispatch, chat.model)
            exchange.set_priority(request.priority)
            if job.takeovers > _TAKEOVERS:
                raise MeshError(ErrorKind.WORKER_LOST, f"{job.takeovers} gateways have ended while they worked on it")
            if not await self._generate(exchange, job, chat, events, writer):
                return
        except Exception as error:
            if isinstance(error, MeshError) and error.kind is ErrorKind.DRAINING:
                await (await self._store.background()).release(job)
                raise
            writer.fail(exchange.failed(error))
        await writer.finish()

    async def _generate(
        self, exchange: Exchange, job: Job, chat: ChatRequest, events: ResponseEvents, writer: _Writer
    ) -> bool:
        """Until it has ended; False if nobody wants it any more."""
        work = asyncio.create_task(self._tell(exchange, job, chat, events, writer))
        try:
            while True:
                await asyncio.wait({work}, timeout=_WRITE_SECONDS)
                if work.done():
                    work.result()
                    return True
                if not await writer.write():
                    return False
        finally:
            work.cancel()

    async def _tell(
        self, exchange: Exchange, job: Job, chat: ChatRequest, events: ResponseEvents, writer: _Writer
    ) -> None:
        """Have it generated, and give its events to the writer."""
        wire = pb.GenerateRequest.FromString(job.wire)
        keeping = Keeping(None, 0, model=job.model) if job.model else None

        def start(model: str) -> Generation:
            wire.model = model
            claim, span = claim_of(exchange), exchange.span
            return Generation(wire, self._dispatch, streamed=False, claim=claim, keeping=keeping, span=span)

        way = self._way(exchange, job, chat)
        generation, arrived = await follow(exchange, self._dispatch, way, start, lambda work: work.next())
        shadow(self._dispatch, way.name, way.shadows, [wire])
        assert generation.started is not None
        job.model = tag(generation.started.fingerprint)
        writer.add(events.render(arrived))
        while not generation.done:
            writer.add(events.render(await generation.next()))
            exchange.token()

    def _way(self, exchange: Exchange, job: Job, chat: ChatRequest) -> Way:
        """Where it goes: one that was begun before to a model that can have begun it."""
        dispatch = self._dispatch
        identity = Identity(bytes.fromhex(job.id.partition("_")[2]), 0)
        way = way_of(exchange, dispatch, chat, Reconnect(identity))
        if not job.model:
            return way
        models = [
            each for each in dispatch.aliases.models(chat.model) if dispatch.directory.fingerprint(each, job.model)
        ]
        return replace(way, models=tuple(models) or way.models, shadows=())

    async def read(
        self, exchange: Exchange, tenant: str, response_id: str, after: int, keep_alive: float
    ) -> AsyncIterator[bytes]:
        """The events behind the one with this number, as they come."""
        silence = KeepAlive(exchange, keep_alive)
        place = 0
        try:
            while True:
                found, ended = await (await self._store.background()).events(tenant, response_id, place)
                for told in found:
                    place = told.end
                    data = told.after(after)
                    if data:
                        exchange.token()
                        yield data
                if (ended and not found) or self._exchanges.draining:
                    break
                if not ended:
                    await asyncio.sleep(_READ_SECONDS)
        except MeshError as error:  # it was removed meanwhile, or the store cannot be used
            yield _error_event(exchange.failed(error), place)
        finally:
            silence.close()
        exchange.finished = True


def told(
    exchange: Exchange, background: BackgroundResponses, response_id: str, after: int, keep_alive: float
) -> Response:
    """The events of a response behind the one with this number, as a stream."""
    exchange.streamed = True
    body = background.read(exchange, exchange.tenant, response_id, after, keep_alive)
    response = Response(body, headers=SSE_HEADERS)
    response.timeout = None  # Quart ends a response after 60 s otherwise
    return response


def _error_event(failure: ErrorAnswer, sequence: int) -> bytes:
    """The last event of a stream that cannot be read on, although the response may go on."""
    error = failure.error
    facts = {"code": error.code, "message": error.message, "param": error.param, "sequence_number": sequence}
    return b"event: error\ndata: %b\n\n" % msgspec.json.encode({"type": "error", **facts})


class _Writer:
    """Writes the events of one response, those that are not there yet."""

    def __init__(self, store: Store, job: Job, events: ResponseEvents) -> None:
        self._store = store
        self._job = job
        self._events = events
        self._waiting = b""
        self._first = 0  # number of the first event that waits
        self._written_at = time.monotonic()
        self._failing_since: float | None = None

    def add(self, data: bytes) -> None:
        """Events that follow those before."""
        self._waiting += data

    def fail(self, failure: ErrorAnswer) -> None:
        """The event of an error, behind all others: also behind those of an earlier gateway, which came further."""
        if self._events.sequence < self._job.next:
            self._waiting, self._first = b"", self._job.next
            self._events.sequence = self._job.next
        self.add(self._events.failed(failure))

    async def write(self) -> bool:
        """Write what waits, or a sign of life, if it is time; False if nobody wants the response any more."""
        waiting = self._waiting
        told = self._fresh()
        pause = _WRITE_SECONDS if told.data else _ALIVE_SECONDS
        if time.monotonic() - self._written_at < pause:
            return True
        self._written_at = time.monotonic()
        try:
            wanted = await (await self._store.background()).add(
                self._job, told, msgspec.json.encode(self._events.response)
            )
        except MeshError as error:
            self._bear(error)
            return True
        self._failing_since = None
        # More may have come meanwhile.
        self._waiting = self._waiting[len(waiting) :]
        self._first += waiting.count(b"\n\n")
        self._job.next = max(self._job.next, told.end)
        return wanted

    async def finish(self) -> None:
        """Write the end. Raises MeshError if the store cannot be used for long."""
        body = self._events.response
        kept = Kept(
            id=body.id,
            created_at=body.created_at,
            model=body.model,
            status=body.status,
            details=body.metadata,
            body=msgspec.json.encode(body),
            chain=(),
            conversation=body.conversation["id"] if body.conversation is not None else None,
            inputs=(),
            outputs=[entry(item) for item in body.output],
        )
        while True:
            try:
                await (await self._store.background()).finish(self._job, self._fresh(), kept)
            except MeshError as error:
                self._bear(error)
                await asyncio.sleep(_ALIVE_SECONDS)
            else:
                return

    def _fresh(self) -> Told:
        """What waits, without what an earlier gateway has written."""
        told = Told(self._first, self._waiting)
        rest = told.after(self._job.next - 1)
        return Told(max(self._first, self._job.next), rest)

    def _bear(self, error: MeshError) -> None:
        """Go on without the store for a while; raises the error after that."""
        since = self._failing_since = self._failing_since or time.monotonic()
        if error.kind is not ErrorKind.STORE_UNAVAILABLE or time.monotonic() - since > _PATIENCE_SECONDS:
            raise error
        log.warning("events of a response cannot be written yet", extra=kv(response=self._job.id, why=error.message))
