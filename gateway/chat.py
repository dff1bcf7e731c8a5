"""POST /v1/chat/completions, streamed and in one piece."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence

import msgspec
from quart import Blueprint, Response, request
from werkzeug.exceptions import UnsupportedMediaType

from gateway import errors
from gateway.collect import ChatCollector
from gateway.exchange import Exchange, current
from gateway.generation import Dispatch, Event, Generation
from gateway.schema import ChatRequest, parse_chat
from gateway.sse import ChatEvents
from gateway.translate import to_generate
from mesh.v1 import inference_pb2 as pb

SSE_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


def chat_routes(dispatch: Dispatch) -> Blueprint:
    """The routes of the chat API."""
    routes = Blueprint("chat", __name__)

    @routes.post("/v1/chat/completions")
    async def chat_completions() -> Response:  # pyright: ignore[reportUnusedFunction]
        exchange = current(request.scope)  # pyright: ignore[reportArgumentType]
        chat = parse_chat(await read_json())
        exchange.streamed = bool(chat.stream)
        if dispatch.directory.knows(chat.model):
            exchange.model = chat.model
        generation = Generation(to_generate(chat, exchange.request_id), dispatch, streamed=exchange.streamed)
        exchange.generation = generation
        first = await generation.next()  # an error up to here is an answer with its own status
        exchange.model = chat.model
        if chat.stream:
            return _streamed(exchange, generation, first, chat)
        return await _collected(exchange, generation, first, chat)

    return routes


async def read_json() -> bytes:
    """The body of a JSON request; raises UnsupportedMediaType for anything else."""
    mimetype = request.mimetype
    if mimetype != "application/json" and not mimetype.endswith("+json"):
        raise UnsupportedMediaType(f"the content type must be application/json, not '{mimetype or 'missing'}'")
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedMediaType(f"the content encoding '{encoding}' is not supported")
    body = await request.get_data(cache=False, as_text=False)
    return body if isinstance(body, bytes) else body.encode()


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"


async def _collected(
    exchange: Exchange, generation: Generation, events: Sequence[Event], chat: ChatRequest
) -> Response:
    collector = ChatCollector(_new_id(), int(time.time()), chat.model, chat.n or 1, logprobs=bool(chat.logprobs))
    collector.add(events)
    while not generation.done:
        events = await generation.next()
        collector.add(events)
        if any(isinstance(event, pb.Delta) for event in events):
            exchange.token()
    return Response(msgspec.json.encode(collector.answer()), content_type="application/json")


def _streamed(exchange: Exchange, generation: Generation, events: Sequence[Event], chat: ChatRequest) -> Response:
    include_usage = bool(chat.stream_options and chat.stream_options.include_usage)
    chunks = ChatEvents(
        _new_id(),
        int(time.time()),
        chat.model,
        chat.n or 1,
        include_usage=include_usage,
        logprobs=bool(chat.logprobs),
    )
    response = Response(_body(exchange, generation, events, chunks), headers=SSE_HEADERS)
    response.timeout = None  # Quart ends a response after 60 s otherwise
    return response


async def _body(
    exchange: Exchange, generation: Generation, events: Sequence[Event], chunks: ChatEvents
) -> AsyncIterator[bytes]:
    """The stream. Between two yields the client has taken what came before, or a buffer of bounded size has."""
    try:
        while True:
            data = chunks.render(events)
            if data:
                yield data
            generation.delivered()
            if generation.done:
                break
            events = await generation.next()
            exchange.token()
    except Exception as error:
        failure = errors.answer(error)
        exchange.error = failure.code
        yield errors.event(failure)
    exchange.finished = True
