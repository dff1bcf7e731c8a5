"""POST /v1/responses and /v1/responses/input_tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec
from quart import Blueprint, Response

from gateway.exchange import Exchange, current
from gateway.openai.bodies import read_json
from gateway.openai.images import ImageLimits
from gateway.openai.pages import json_response
from gateway.openai.respond import Begun, Keep, StreamTimes, begin, collected, read_reconnect, streamed
from gateway.openai.responses.answer import ResponseBody, ResponseEvent, begun
from gateway.openai.responses.ask import Asked, ask, events_of, kept_of
from gateway.openai.responses.background import BackgroundResponses, told
from gateway.openai.responses.events import ResponseEvents
from gateway.openai.responses.schema import (
    RESPONSE_RANGES,
    RESPONSE_WITHOUT_EFFECT,
    ResponseQuestion,
    ResponseRequest,
    parse_question,
    parse_response,
)
from gateway.openai.responses.tools import HostedTools
from gateway.openai.schema import RANGES
from gateway.openai.translate import to_generate
from gateway.openai.ways import as_heard, ask_model, note_model
from gateway.operation import OF_WORKERS, Operation
from gateway.reconnect import WISH, Reconnect
from gateway.routing.dispatch import Dispatch
from gateway.routing.unary import tokenize_call
from gateway.store.shapes import Job
from gateway.store.store import Store
from mesh.errors import MeshError, invalid, unsupported
from mesh.v1 import inference_pb2 as pb


class InputTokens(msgspec.Struct):
    """Tokens of a request's input."""

    input_tokens: int
    object: str = "response.input_tokens"


_SIGHT: Final = frozenset({pb.CAPABILITY_VISION})
_VALUES: Final = {
    "include": "`message.output_text.logprobs`, `reasoning.encrypted_content`; those of hosted tools add nothing",
    "metadata": "at most 16 entries",
    "reasoning": "`effort` as `reasoning_effort` of chats; `summary`: auto, detailed",
    "seed": "64 bits with sign",
    "service_tier": "auto, default",
    "stop": "at most 4",
    "store": "true by default",
    "stream_options": "`include_obfuscation`, without effect",
    "text": "`format`; `verbosity`: medium",
    "tool_choice": "none, auto, required, a function, allowed_tools",
    "tools": "1 to 128 functions, also in namespaces",
    "truncation": "disabled",
}
CREATE_RESPONSE: Final = Operation(
    method="POST",
    path="/v1/responses",
    summary="A response: items in, items out.",
    group="Responses",
    body=ResponseRequest,
    answer=ResponseBody,
    events=(ResponseEvent,),
    also={204: "The client has the whole response, according to its `Last-Event-ID`."},
    errors=OF_WORKERS,
    ranges=tuple(each for each in (*RANGES, *RESPONSE_RANGES) if each[0] in ResponseRequest.__struct_fields__),
    values=_VALUES,
    ignored=RESPONSE_WITHOUT_EFFECT,
)
COUNT_INPUT: Final = Operation(
    method="POST",
    path="/v1/responses/input_tokens",
    summary="The tokens of a response's input.",
    group="Responses",
    body=ResponseQuestion,
    answer=InputTokens,
    errors=OF_WORKERS,
    values={name: value for name, value in _VALUES.items() if name in ResponseQuestion.__struct_fields__},
)


@dataclass(frozen=True, slots=True)
class ResponseOptions:
    """`images`: limits of images; `hosted`: what becomes of tools that cannot be run; `times` of streams."""

    images: ImageLimits
    hosted: HostedTools
    times: StreamTimes


def response_routes(
    dispatch: Dispatch, store: Store, background: BackgroundResponses, options: ResponseOptions
) -> Blueprint:
    """The routes."""
    routes = Blueprint("responses", __name__)

    @CREATE_RESPONSE.on(routes)
    async def create_response() -> Response:  # pyright: ignore[reportUnusedFunction]
        exchange = current()
        made = await _made(exchange, await read_json(), dispatch, store, options)
        asking = made.request
        if made.reconnect.complete(include_usage=False):
            return Response(status=204)
        if asking.background:
            await _begin_background(exchange, made, dispatch, background)
            if asking.stream:
                return told(exchange, background, made.events.response.id, -1, options.times.keep_alive)
            return json_response(made.events.response)
        work = _begin(exchange, dispatch, made)
        keep = _keeper(store, exchange.tenant, made) if made.events.response.store else None
        if asking.stream:
            return await streamed(exchange, work, made.events, options.times, keep=keep)
        generation, first = await work
        return await collected(exchange, generation, first, made.events, keep=keep)

    @COUNT_INPUT.on(routes)
    async def count_input() -> Response:  # pyright: ignore[reportUnusedFunction]
        exchange = current()
        question = parse_question(await read_json())
        exchange.check_model(question.model)
        asked = await ask(question, exchange.tenant, store, hosted=options.hosted)
        if asked.chat.has_images:
            raise unsupported("input", "'input' holds an image, of which only a model knows the tokens")
        wire = pb.TokenizeRequest(model=question.model, chat=to_generate(asked.chat, "").chat)
        with asked.origins.told():
            found = await ask_model(exchange, dispatch, wire, tokenize_call)
        return json_response(InputTokens(len(found.token_ids)))

    return routes


@dataclass(slots=True)
class _Made:
    """What a request comes to: the request to workers, and what tells their answer."""

    body: bytes
    request: ResponseRequest
    asked: Asked
    reconnect: Reconnect
    wire: pb.GenerateRequest
    events: ResponseEvents


async def _made(exchange: Exchange, body: bytes, dispatch: Dispatch, store: Store, options: ResponseOptions) -> _Made:
    """Raises MeshError with the request's own names of fields."""
    asking = parse_response(body)
    note_model(exchange, dispatch, asking.model)
    keeps = asking.store if asking.store is not None else store.keeps or bool(asking.background)
    if keeps:
        await store.open()  # rather an error now than after the answer
    asked = await ask(asking, exchange.tenant, store, hosted=options.hosted)
    exchange.left_out = asked.toolbox.left_out
    if asked.chat.has_images:
        dispatch.check_can(asking.model, _SIGHT)  # before any is fetched
    images = await asked.images(options.images)
    shown = [image.data for image in images.values()]
    reconnect = read_reconnect(exchange, body, stream=asking.stream, more=(*asked.before, *shown))
    identity, toolbox = reconnect.identity, asked.toolbox
    response = begun(asking, toolbox, f"resp_{identity.nonce.hex()}", identity.created, store=keeps)
    events = events_of(asking, asked.chat, toolbox, response, reconnect.ids(1))
    wire = to_generate(asked.chat, exchange.request_id, images=images, draw=identity.seed)
    wire.output.markup = events.options.wanted
    return _Made(body, asking, asked, reconnect, wire, events)


async def _begin(exchange: Exchange, dispatch: Dispatch, made: _Made) -> Begun:
    """Start it. Raises MeshError with the request's own names of fields."""
    with made.asked.origins.told():
        return await begin(exchange, dispatch, made.asked.chat, [made.wire], made.reconnect)


async def _begin_background(
    exchange: Exchange, made: _Made, dispatch: Dispatch, background: BackgroundResponses
) -> None:
    """Let it go on without its client. Raises MeshError for what can be known to fail."""
    if made.events.ids is not None:
        raise invalid(WISH, f"'{WISH}' excludes 'background', whose events are read again with 'starting_after'")
    note_model(exchange, dispatch, made.request.model)
    try:
        dispatch.directory.check_known(dispatch.aliases.models(made.request.model)[0])
    except MeshError as error:
        raise as_heard(exchange, dispatch, error) from None
    exchange.set_priority(made.request.priority)
    exchange.streamed = bool(made.request.stream)
    made.wire.tenant = exchange.cache_scope
    made.wire.traceparent = exchange.traceparent
    kept = kept_of(made.request, made.asked, made.events.response)
    job = Job(kept.id, exchange.tenant, made.body, made.wire.SerializeToString(), kept.body)
    await background.begin(exchange, job, kept, made.events.begin())


def _keeper(store: Store, tenant: str, made: _Made) -> Keep:
    """Keeps a response once it is whole."""

    async def keep() -> None:
        await (await store.responses()).keep(tenant, kept_of(made.request, made.asked, made.events.response))

    return keep
