"""POST /v1/completions, streamed and in one piece."""

from __future__ import annotations

from functools import partial

from quart import Blueprint, Response

from gateway.exchange import Exchange, current
from gateway.openai.answers import CompletionAnswer, TextChunk
from gateway.openai.bodies import read_json
from gateway.openai.collect import CompletionCollector
from gateway.openai.completion_schema import COMPLETION_RANGES, CompletionRequest, parse_completion
from gateway.openai.logprobs import CompletionLogprobs
from gateway.openai.respond import (
    NOTHING_LEFT,
    StreamTimes,
    begin,
    collected,
    entries_of_prompt,
    prompt_reader,
    read_reconnect,
    streamed,
    token_ids,
)
from gateway.openai.schema import RANGES, VALUES
from gateway.openai.sse import CompletionEvents
from gateway.openai.translate import to_generates
from gateway.operation import OF_WORKERS, Operation
from gateway.routing.dispatch import Dispatch

COMPLETIONS = Operation(
    method="POST",
    path="/v1/completions",
    summary="Continue one or more texts, streamed or in one piece.",
    group="Completions",
    body=CompletionRequest,
    answer=CompletionAnswer,
    events=(TextChunk,),
    also=NOTHING_LEFT,
    errors=OF_WORKERS,
    ranges=(*RANGES, *COMPLETION_RANGES),
    values=VALUES,
    ignored=("user",),
)


def completion_routes(dispatch: Dispatch, times: StreamTimes) -> Blueprint:
    """The routes of the text completion API."""
    routes = Blueprint("completions", __name__)

    @COMPLETIONS.on(routes)
    async def completions() -> Response:  # pyright: ignore[reportUnusedFunction]
        exchange = current()
        data = await read_json()
        body = parse_completion(data)
        reconnect = read_reconnect(exchange, data, stream=body.stream)
        if reconnect.complete(include_usage=body.include_usage):
            return Response(status=204)
        choices = len(body.prompts) * (body.n or 1)
        ids = reconnect.ids(choices)
        wires = to_generates(body, exchange.request_id, draw=reconnect.identity.seed)
        work = begin(exchange, dispatch, body, wires, reconnect)
        identity = (reconnect.identity.name("cmpl"), reconnect.identity.created, body.model, choices)
        logprobs = _logprobs(body, exchange, choices)
        told = token_ids(exchange, body, choices)
        if body.stream:
            chunks = CompletionEvents(
                *identity,
                include_usage=body.include_usage,
                running_usage=body.running_usage,
                logprobs=logprobs,
                token_ids=told,
                ids=ids,
            )
            return await streamed(exchange, work, chunks, times)
        generation, first = await work
        prompt = prompt_reader(exchange, body.prompt_logprobs)
        collector = CompletionCollector(*identity, logprobs=logprobs, prompt_logprobs=prompt, token_ids=told)
        return await collected(exchange, generation, first, collector)

    return routes


def _logprobs(body: CompletionRequest, exchange: Exchange, choices: int) -> list[CompletionLogprobs] | None:
    """A buffer for each choice; an echoed prompt has log probabilities too, once the exchange has its generation."""
    top = body.logprobs
    if top is None:
        return None
    if not body.echo:
        return [CompletionLogprobs() for _ in range(choices)]

    return [CompletionLogprobs(partial(entries_of_prompt, exchange, choice, top)) for choice in range(choices)]
