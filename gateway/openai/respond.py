"""From generation to HTTP response, streamed or in one piece; the same for every route that generates."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from quart import Response, request

from gateway.errors import ErrorAnswer
from gateway.exchange import Connection, Exchange
from gateway.openai.answers import PromptLogprobs
from gateway.openai.keep_alive import COMMENT, KeepAlive
from gateway.openai.logprobs import prompt_logprobs, with_top
from gateway.openai.schema import GenerationRequest
from gateway.openai.token_ids import TokenIds
from gateway.openai.ways import claim_of, follow, note_model, way_of
from gateway.reconnect import EventIds, Reconnect
from gateway.routing.dispatch import Dispatch
from gateway.routing.events import Delta, Event
from gateway.routing.generation import Generation
from gateway.routing.group import GenerationGroup
from gateway.routing.shadow import shadow
from mesh.log import kv
from mesh.v1 import inference_pb2 as pb

log = logging.getLogger(__name__)

SSE_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}

# What a client that comes back gets if it lacks nothing: see gateway.reconnect.
NOTHING_LEFT = {204: "The client had the whole answer already, by its Last-Event-ID."}


# Keeps an answer in the store.
Keep = Callable[[], Awaitable[None]]
# What a request has started, and its first events.
Begun = tuple[Generation | GenerationGroup, list[Event]]


@dataclass(frozen=True, slots=True)
class StreamTimes:
    """Seconds: `keep_alive` see KeepAlive, `begin_after` see `begun_or_late`."""

    keep_alive: float
    begin_after: float


class Collector(Protocol):
    """Gathers an answer in one piece."""

    def add(self, events: Sequence[Event]) -> None:
        """Take events in order."""
        ...

    def answer(self) -> Any:
        """The whole answer, to be encoded as JSON; Finished must have been added."""
        ...


class Chunks(Protocol):
    """Renders a streamed answer as server-sent events."""

    @property
    def ids(self) -> EventIds | None:
        """Those of its events, if the client may come back."""
        ...

    def render(self, events: Sequence[Event]) -> bytes:
        """The bytes of these events, to be sent at once; may be empty."""
        ...

    def failed(self, failure: ErrorAnswer) -> bytes:
        """Those of an error, after which nothing follows."""
        ...


def read_reconnect(exchange: Exchange, body: bytes, *, stream: bool | None, more: Iterable[bytes] = ()) -> Reconnect:
    """What the request has to do with reconnecting: see `Reconnect.of`."""
    return Reconnect.of(
        request.headers, stream=bool(stream), tenant=exchange.tenant, path=exchange.path, body=body, more=more
    )


async def begin(
    exchange: Exchange,
    dispatch: Dispatch,
    body: GenerationRequest,
    wires: Sequence[pb.GenerateRequest],
    reconnect: Reconnect,
) -> Begun:
    """Start what the body asks for, one generation for each of `wires`, and return it with its first events. An error
    up to here is an answer with its own status."""
    note_model(exchange, dispatch, body.model)
    exchange.streamed = bool(body.stream)
    exchange.set_priority(body.priority)
    claim = claim_of(exchange)
    for wire in wires:
        wire.tenant = exchange.cache_scope
        wire.traceparent = exchange.traceparent
    keeping = reconnect.keeping(dispatch.keep_seconds, alone=len(wires) == 1)
    streamed, span = exchange.streamed, exchange.span

    def start(model: str) -> Generation | GenerationGroup:
        for wire in wires:
            wire.model = model
        members = [
            Generation(wire, dispatch, streamed=streamed, claim=claim, keeping=keeping, span=span) for wire in wires
        ]
        return members[0] if len(members) == 1 else GenerationGroup(members, body.n or 1)

    way = way_of(exchange, dispatch, body, reconnect)
    generation, first = await follow(exchange, dispatch, way, start, lambda work: work.next())
    if reconnect.after is not None:
        _note_return(dispatch, generation)
    shadow(dispatch, way.name, way.shadows, wires)
    return generation, first


def _note_return(dispatch: Dispatch, generation: Generation | GenerationGroup) -> None:
    model, kept = generation.model, generation.started is not None and generation.started.kept
    dispatch.metrics.reconnects.labels(model, "kept" if kept else "computed again").inc()
    log.info("client came back", extra=kv(model=model, kept=kept))


def _prompt_of(exchange: Exchange, choice: int) -> pb.Started:
    """What is known of a choice's prompt, once its generation has begun."""
    generation = exchange.generation
    assert isinstance(generation, Generation | GenerationGroup)
    return generation.started_of(choice)


def entries_of_prompt(exchange: Exchange, choice: int, top: int) -> list[pb.TokenLogprob]:
    """The log probabilities of a choice's prompt, once its generation has begun."""
    return with_top(_prompt_of(exchange, choice).prompt_logprobs, top)


def token_ids(exchange: Exchange, body: GenerationRequest, choices: int) -> TokenIds | None:
    """Those of an answer and its prompts, if the client asked for them."""
    if not body.return_token_ids:
        return None
    return TokenIds(choices, lambda choice: list(_prompt_of(exchange, choice).prompt_token_ids))


def prompt_reader(exchange: Exchange, top: int | None) -> Callable[[int], PromptLogprobs] | None:
    """What an answer reports of the prompt of a choice, if the client asked for it."""
    if top is None:
        return None
    return lambda choice: prompt_logprobs(entries_of_prompt(exchange, choice, top))


async def collected(
    exchange: Exchange,
    generation: Generation | GenerationGroup,
    events: Sequence[Event],
    collector: Collector,
    *,
    keep: Keep | None = None,
) -> Response:
    """The answer in one piece. `events` are the first; `keep` is called with the last."""
    collector.add(events)
    while not generation.done:
        events = await generation.next()
        collector.add(events)
        if any(isinstance(event, Delta) for event in events):
            exchange.token()
    if keep is not None:
        await keep()
    return Response(msgspec.json.encode(collector.answer()), content_type="application/json")


async def begun_or_late(exchange: Exchange, work: Coroutine[Any, Any, Begun], seconds: float) -> asyncio.Task[Begun]:
    """Wait until the work for a stream has begun, but no longer than `seconds` (0: until it has).

    An error until then is an answer with its own status; a later one is an event of the stream.
    """
    task = exchange.opening = asyncio.create_task(work)
    await asyncio.wait({task}, timeout=seconds or None)
    if task.done():
        task.result()
    return task


async def streamed(
    exchange: Exchange,
    work: Coroutine[Any, Any, Begun],
    chunks: Chunks,
    times: StreamTimes,
    *,
    keep: Keep | None = None,
) -> Response:
    """The answer of `work` as a stream. `keep` is called before the client hears that the answer is whole, so that it
    can be asked for then."""
    begun = await begun_or_late(exchange, work, times.begin_after)
    response = Response(_body(exchange, begun, chunks, times.keep_alive, keep), headers=SSE_HEADERS)
    response.timeout = None  # Quart ends a response after 60 s otherwise
    return response


class _Follower:
    """Writes tokens to the client's connection in the moment that they arrive, while it takes them."""

    __slots__ = ("_chunks", "_connection", "_exchange", "_generation", "ready")

    def __init__(self, exchange: Exchange, connection: Connection, generation: Generation, chunks: Chunks) -> None:
        self._exchange = exchange
        self._generation = generation
        self._connection = connection
        self._chunks = chunks
        self.ready = connection.ready

    def take(self, events: Sequence[Event]) -> None:
        self._exchange.token()
        data = _render(self._generation, self._chunks, events)
        if data:
            self._connection.write(data)


def _render(generation: Generation | GenerationGroup, chunks: Chunks, events: Sequence[Event]) -> bytes:
    if chunks.ids is not None:
        chunks.ids.at(generation.kept_at)
    return chunks.render(events)


async def _body(
    exchange: Exchange,
    begun: asyncio.Task[Begun],
    chunks: Chunks,
    keep_alive: float,
    keep: Keep | None,
) -> AsyncIterator[bytes]:
    """The stream. Between two yields the client has taken what came before, or a buffer of bounded size has."""
    silence = KeepAlive(exchange, keep_alive)
    try:
        if not begun.done():
            yield COMMENT
        generation, events = await begun
        if exchange.connection is not None and isinstance(generation, Generation):
            generation.follow(_Follower(exchange, exchange.connection, generation, chunks))
        while True:
            data = _render(generation, chunks, events)
            if keep is not None and generation.done:
                await keep()
            if data:
                yield data
            generation.delivered()
            if generation.done:
                break
            events = await generation.next()
            exchange.token()
    except Exception as error:
        yield chunks.failed(exchange.failed(error))
    finally:
        silence.close()
    if exchange.trail:
        yield b": x-mesh-trace %b\n\n" % exchange.trail  # a comment, which clients skip
    exchange.finished = True
