"""POST /v1/chat/completions, streamed and in one piece."""

from __future__ import annotations

from collections.abc import Sequence

from quart import Blueprint, Response

from gateway.exchange import current
from gateway.openai.answers import ChatAnswer, ChatChunk
from gateway.openai.bodies import read_json
from gateway.openai.chat_collect import ChatCollector
from gateway.openai.chat_events import ChatEvents
from gateway.openai.chat_schema import CHAT_RANGES, WITHOUT_EFFECT, ChatRequest, parse_chat
from gateway.openai.images import ImageLimits, read_images
from gateway.openai.logprobs import ChatLogprobs
from gateway.openai.messages import MAX_MESSAGES
from gateway.openai.parts import PartOptions
from gateway.openai.respond import (
    NOTHING_LEFT,
    StreamTimes,
    begin,
    collected,
    prompt_reader,
    read_reconnect,
    streamed,
    token_ids,
)
from gateway.openai.schema import RANGES, VALUES
from gateway.openai.stored_chats import Gathering, chat_keeper
from gateway.openai.translate import to_generate
from gateway.openai.ways import note_model
from gateway.operation import OF_WORKERS, Operation
from gateway.routing.dispatch import Dispatch
from gateway.store.store import Store
from mesh.v1 import inference_pb2 as pb

CHAT = Operation(
    method="POST",
    path="/v1/chat/completions",
    summary="Answer a conversation, streamed or in one piece.",
    group="Chat",
    body=ChatRequest,
    answer=ChatAnswer,
    events=(ChatChunk,),
    also=NOTHING_LEFT,
    errors=OF_WORKERS,
    ranges=(*RANGES, *CHAT_RANGES),
    values={
        **VALUES,
        "chat_template": "if the worker allows it",
        "chat_template_kwargs": "at most 65536 bytes and 16 levels",
        "messages": f"1 to {MAX_MESSAGES}",
        "metadata": "at most 16 entries, kept with the answer",
        "modalities": '`["text"]`',
        "service_tier": "auto, default",
        "tools": "1 to 128 functions",
        "verbosity": "medium",
    },
    ignored=WITHOUT_EFFECT,
)

_SIGHT = frozenset({pb.CAPABILITY_VISION})


def chat_routes(
    dispatch: Dispatch, store: Store, limits: ImageLimits, reasoning_fields: Sequence[str], times: StreamTimes
) -> Blueprint:
    """The routes of the chat API. `reasoning_fields`: the names by which reasoning goes in answers."""
    routes = Blueprint("chat", __name__)

    @CHAT.on(routes)
    async def chat_completions() -> Response:  # pyright: ignore[reportUnusedFunction]
        exchange = current()
        body = await read_json()
        chat = parse_chat(body)
        note_model(exchange, dispatch, chat.model)
        if chat.store:
            await store.open()  # rather an error now than after the answer
        if chat.has_images:
            dispatch.check_can(chat.model, _SIGHT)  # before any is fetched
        images = await read_images(chat, limits) if chat.has_images else {}
        shown = [image.data for image in images.values()]
        reconnect = read_reconnect(exchange, body, stream=chat.stream, more=shown)
        if reconnect.complete(include_usage=chat.include_usage):
            return Response(status=204)
        choices = chat.n or 1
        ids = reconnect.ids(choices)
        options = PartOptions.of(chat)
        wire = to_generate(chat, exchange.request_id, images=images, draw=reconnect.identity.seed)
        wire.output.markup = options.wanted
        identity = (reconnect.identity.name("chatcmpl"), reconnect.identity.created, chat.model, choices)
        prompt = prompt_reader(exchange, chat.prompt_logprobs)
        collector = ChatCollector(
            *identity,
            logprobs=_logprobs(chat),
            prompt_logprobs=prompt,
            token_ids=token_ids(exchange, chat, choices),
            options=options,
            reasoning_fields=reasoning_fields,
        )
        keep = chat_keeper(store, exchange.tenant, chat, collector) if chat.store else None
        work = begin(exchange, dispatch, chat, [wire], reconnect)
        if not chat.stream:
            generation, first = await work
            return await collected(exchange, generation, first, collector, keep=keep)
        chunks = ChatEvents(
            *identity,
            include_usage=chat.include_usage,
            running_usage=chat.running_usage,
            logprobs=_logprobs(chat),
            token_ids=token_ids(exchange, chat, choices),
            ids=ids,
            options=options,
            reasoning_fields=reasoning_fields,
        )
        telling = Gathering(chunks, collector) if chat.store else chunks
        return await streamed(exchange, work, telling, times, keep=keep)

    return routes


def _logprobs(chat: ChatRequest) -> list[ChatLogprobs] | None:
    """A buffer for each choice, if the client asked for them."""
    return [ChatLogprobs() for _ in range(chat.n or 1)] if chat.logprobs else None
