"""POST /v1/messages, streamed and in one piece, and POST /v1/messages/count_tokens."""

from __future__ import annotations

from typing import get_args

import msgspec
from quart import Blueprint, Response, request

from gateway.anthropic.answers import Message, StreamEvent, TokenCount
from gateway.anthropic.blocks import Blocks
from gateway.anthropic.collect import MessageCollector
from gateway.anthropic.events import MessageEvents
from gateway.anthropic.schema import (
    COUNT_VALUES,
    COUNT_WITHOUT_EFFECT,
    MESSAGES_RANGES,
    VALUES,
    WITHOUT_EFFECT,
    CountRequest,
    MessagesRequest,
    parse_count,
    parse_messages,
)
from gateway.anthropic.translate import hints, to_chat
from gateway.errors import AnthropicEnvelope
from gateway.exchange import current
from gateway.openai.bodies import read_json
from gateway.openai.images import ImageLimits, read_images
from gateway.openai.parts import PartOptions
from gateway.openai.respond import NOTHING_LEFT, StreamTimes, begin, collected, read_reconnect, streamed
from gateway.openai.translate import to_generate
from gateway.openai.ways import ask_model, note_model
from gateway.operation import OF_WORKERS, Operation
from gateway.routing.dispatch import Dispatch
from gateway.routing.unary import tokenize_call
from mesh.errors import invalid, unsupported
from mesh.v1 import inference_pb2 as pb

# Of the API. What the second one has taken away (sampling parameters) is honoured in both.
VERSIONS = ("2023-06-01", "2026-10-21")
_OVERLOADED = 529  # what Anthropic's API says instead of 429 if it is the mesh that has no room
MESSAGES = Operation(
    method="POST",
    path="/v1/messages",
    summary="Answer a conversation, by Anthropic's API; streamed or in one piece.",
    group="Messages",
    body=MessagesRequest,
    answer=Message,
    events=get_args(StreamEvent),
    also=NOTHING_LEFT,
    errors=(*OF_WORKERS, _OVERLOADED),
    error=AnthropicEnvelope,
    ranges=MESSAGES_RANGES,
    values=VALUES,
    ignored=WITHOUT_EFFECT,
)
COUNT_TOKENS = Operation(
    method="POST",
    path="/v1/messages/count_tokens",
    summary="The tokens of the prompt that a conversation makes.",
    group="Messages",
    body=CountRequest,
    answer=TokenCount,
    errors=(*OF_WORKERS, _OVERLOADED),
    error=AnthropicEnvelope,
    values=COUNT_VALUES,
    ignored=COUNT_WITHOUT_EFFECT,
)

_SIGHT = frozenset({pb.CAPABILITY_VISION})


def message_routes(dispatch: Dispatch, limits: ImageLimits, times: StreamTimes) -> Blueprint:
    """The routes of the Messages API."""
    routes = Blueprint("messages", __name__)

    @MESSAGES.on(routes)
    async def messages() -> Response:  # pyright: ignore[reportUnusedFunction]
        exchange = current()
        _check_version()
        body = await read_json()
        asked = parse_messages(body)
        note_model(exchange, dispatch, asked.model)
        translated = to_chat(asked)
        chat = translated.chat
        if translated.image_names:
            dispatch.check_can(chat.model, _SIGHT)  # before any is fetched
        images = await read_images(chat, limits, translated.image_names) if translated.image_names else {}
        shown = [image.data for image in images.values()]
        reconnect = read_reconnect(exchange, body, stream=chat.stream, more=shown)
        if reconnect.complete(include_usage=True):  # the last two events belong to all
            return Response(status=204)
        options = PartOptions.of(chat)
        wire = to_generate(chat, exchange.request_id, images=images, draw=reconnect.identity.seed)
        wire.chat.template_hints.update(hints(asked))
        wire.output.markup = options.wanted
        ids = reconnect.ids(1)
        work = begin(exchange, dispatch, chat, [wire], reconnect)
        answer_id = f"msg_{reconnect.identity.nonce.hex()}"
        blocks = Blocks(answer_id, asked, options)
        if chat.stream:
            events = MessageEvents(answer_id, chat.model, blocks, ids)
            return await streamed(exchange, work, events, times)
        generation, first = await work
        return await collected(exchange, generation, first, MessageCollector(answer_id, chat.model, blocks))

    @COUNT_TOKENS.on(routes)
    async def count_tokens() -> Response:  # pyright: ignore[reportUnusedFunction]
        exchange = current()
        _check_version()
        asked = parse_count(await read_json())
        exchange.check_model(asked.model)
        translated = to_chat(asked)
        if translated.image_names:
            raise unsupported("messages", "'messages' holds an image, of which only a model knows the tokens")
        wire = pb.TokenizeRequest(model=asked.model, chat=to_generate(translated.chat, "").chat)
        wire.chat.template_hints.update(hints(asked))
        count = TokenCount(len((await ask_model(exchange, dispatch, wire, tokenize_call)).token_ids))
        return Response(msgspec.json.encode(count), content_type="application/json")

    return routes


def _check_version() -> None:
    """Raise invalid_request for a version of the API that is not served. The header may be left out."""
    name = "anthropic-version"
    given = request.headers.get(name)
    if given is not None and given not in VERSIONS:
        raise invalid(name, f"'{name}' must be {' or '.join(VERSIONS)}, not '{given[:64]}'")
