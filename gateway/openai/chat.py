"""POST /v1/chat/completions, streamed and in one piece."""

from __future__ import annotations

import time
import uuid

from quart import Blueprint, Response, request

from gateway.exchange import current
from gateway.openai.collect import ChatCollector
from gateway.openai.images import ImageLimits, read_images
from gateway.openai.logprobs import ChatLogprobs
from gateway.openai.respond import begin, collected, prompt_reader, read_json, streamed
from gateway.openai.schema import parse_chat
from gateway.openai.sse import ChatEvents
from gateway.openai.translate import to_generate
from gateway.routing.dispatch import Dispatch
from mesh.v1 import inference_pb2 as pb

_SIGHT = frozenset({pb.CAPABILITY_VISION})


def chat_routes(dispatch: Dispatch, limits: ImageLimits) -> Blueprint:
    """The routes of the chat API."""
    routes = Blueprint("chat", __name__)

    @routes.post("/v1/chat/completions")
    async def chat_completions() -> Response:  # pyright: ignore[reportUnusedFunction]
        exchange = current(request.scope)  # pyright: ignore[reportArgumentType]
        chat = parse_chat(await read_json())
        exchange.check_model(chat.model)
        if chat.has_images:
            dispatch.directory.check_can(chat.model, _SIGHT)  # before any is fetched
        images = await read_images(chat, limits) if chat.has_images else {}
        wire = to_generate(chat, exchange.request_id, images=images)
        generation, first = await begin(exchange, dispatch, chat, [wire])
        identity = (f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), chat.model, chat.n or 1)
        logprobs = [ChatLogprobs() for _ in range(chat.n or 1)] if chat.logprobs else None
        if chat.stream:
            chunks = ChatEvents(*identity, include_usage=chat.include_usage, logprobs=logprobs)
            return streamed(exchange, generation, first, chunks)
        prompt = prompt_reader(generation, chat.prompt_logprobs)
        collector = ChatCollector(*identity, logprobs=logprobs, prompt_logprobs=prompt)
        return await collected(exchange, generation, first, collector)

    return routes
