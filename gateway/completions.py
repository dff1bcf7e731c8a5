"""POST /v1/completions, streamed and in one piece."""

from __future__ import annotations

import time
import uuid

from quart import Blueprint, Response, request

from gateway.collect import CompletionCollector
from gateway.completion_schema import parse_completion
from gateway.exchange import current
from gateway.generation import Dispatch
from gateway.respond import begin, collected, read_json, streamed
from gateway.sse import CompletionEvents
from gateway.translate import to_generates


def completion_routes(dispatch: Dispatch) -> Blueprint:
    """The routes of the text completion API."""
    routes = Blueprint("completions", __name__)

    @routes.post("/v1/completions")
    async def completions() -> Response:  # pyright: ignore[reportUnusedFunction]
        exchange = current(request.scope)  # pyright: ignore[reportArgumentType]
        body = parse_completion(await read_json())
        generation, first = await begin(exchange, dispatch, body, to_generates(body, exchange.request_id))
        choices = len(body.prompts) * (body.n or 1)
        identity = (f"cmpl-{uuid.uuid4().hex}", int(time.time()), body.model, choices)
        logprobs = body.logprobs is not None
        if body.stream:
            chunks = CompletionEvents(*identity, include_usage=body.include_usage, logprobs=logprobs)
            return streamed(exchange, generation, first, chunks)
        return await collected(exchange, generation, first, CompletionCollector(*identity, logprobs=logprobs))

    return routes
