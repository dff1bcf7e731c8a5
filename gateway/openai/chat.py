"""POST /v1/chat/completions, streamed and in one piece."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

from quart import Blueprint, Response, request

from gateway.exchange import current
from gateway.openai.chat_collect import ChatCollector
from gateway.openai.chat_events import ChatEvents
from gateway.openai.chat_schema import parse_chat
from gateway.openai.images import ImageLimits, read_images
from gateway.openai.logprobs import ChatLogprobs
from gateway.openai.parts import PartOptions
from gateway.openai.respond import begin, collected, prompt_reader, read_json, streamed
from gateway.openai.translate import to_generate
from gateway.routing.dispatch import Dispatch
from mesh.v1 import inference_pb2 as pb

_SIGHT = frozenset({pb.CAPABILITY_VISION})


def chat_routes(dispatch: Dispatch, limits: ImageLimits, reasoning_fields: Sequence[str]) -> Blueprint:
    """The routes of the chat API. `reasoning_fields`: the names by which reasoning goes in answers."""
    routes = Blueprint("chat", __name__)

    @routes.post("/v1/chat/completions")
    async def chat_completions() -> Response:  # pyright: ignore[reportUnusedFunction]
        exchange = current(request.scope)  # pyright: ignore[reportArgumentType]
        chat = parse_chat(await read_json())
        exchange.check_model(chat.model)
        if chat.has_images:
            dispatch.directory.check_can(chat.model, _SIGHT)  # before any is fetched
        images = await read_images(chat, limits) if chat.has_images else {}
        options = PartOptions.of(chat)
        wire = to_generate(chat, exchange.request_id, images=images)
        wire.output.markup = options.wanted
        generation, first = await begin(exchange, dispatch, chat, [wire])
        identity = (f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), chat.model, chat.n or 1)
        logprobs = [ChatLogprobs() for _ in range(chat.n or 1)] if chat.logprobs else None
        if chat.stream:
            chunks = ChatEvents(
                *identity,
                include_usage=chat.include_usage,
                running_usage=chat.running_usage,
                logprobs=logprobs,
                options=options,
                reasoning_fields=reasoning_fields,
            )
            return streamed(exchange, generation, first, chunks)
        prompt = prompt_reader(generation, chat.prompt_logprobs)
        collector = ChatCollector(
            *identity, logprobs=logprobs, prompt_logprobs=prompt, options=options, reasoning_fields=reasoning_fields
        )
        return await collected(exchange, generation, first, collector)

    return routes
