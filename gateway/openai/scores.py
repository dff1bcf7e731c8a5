"""POST /v1/score and /v1/rerank: how near texts are to each other, by the cosine of their embeddings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from operator import mul

import msgspec
from quart import Blueprint, Response

from gateway.exchange import current
from gateway.openai.bodies import read_json
from gateway.openai.embeddings import EmbeddingUsage
from gateway.openai.score_schema import (
    MAX_TEXTS,
    RerankRequest,
    ScoreRequest,
    parse_rerank,
    parse_score,
    texts,
    to_embed,
)
from gateway.openai.ways import ask_model
from gateway.operation import OF_WORKERS, Operation
from gateway.routing.dispatch import Dispatch
from gateway.routing.unary import embed_call
from mesh.v1 import inference_pb2 as pb


class Score(msgspec.Struct, kw_only=True):
    """The score of one pair, from -1 to 1."""

    object: str = "score"
    index: int
    score: float


class ScoreList(msgspec.Struct, kw_only=True):
    """The answer of /v1/score, in the order of the texts."""

    id: str
    object: str = "list"
    created: int
    model: str
    data: list[Score]
    usage: EmbeddingUsage


class Document(msgspec.Struct):
    """A document."""

    text: str


class Ranked(msgspec.Struct):
    """A document with its place in the request, and its score from -1 to 1."""

    index: int
    relevance_score: float
    document: Document | msgspec.UnsetType = msgspec.UNSET


class Ranking(msgspec.Struct):
    """The answer of /v1/rerank, the best first."""

    id: str
    model: str
    results: list[Ranked]
    usage: EmbeddingUsage


SCORE = Operation(
    method="POST",
    path="/v1/score",
    summary="How near texts are to each other, by their embeddings.",
    group="Embeddings",
    body=ScoreRequest,
    answer=ScoreList,
    errors=OF_WORKERS,
    values={"text_1": "one text, or as many as `text_2`", "text_2": f"at most {MAX_TEXTS} texts with `text_1`"},
    ignored=("user",),
)
RERANK = Operation(
    method="POST",
    path="/v1/rerank",
    summary="Put documents in the order of their nearness to a query, by their embeddings.",
    group="Embeddings",
    body=RerankRequest,
    answer=Ranking,
    errors=OF_WORKERS,
    values={"documents": f"1 to {MAX_TEXTS - 1} texts", "top_n": "at least 1"},
    ignored=("user",),
)


def score_routes(dispatch: Dispatch) -> Blueprint:
    """The routes."""
    routes = Blueprint("scores", __name__)

    @SCORE.on(routes)
    async def score() -> Response:  # pyright: ignore[reportUnusedFunction]
        exchange = current()
        body = parse_score(await read_json())
        first, second = texts(body.text_1), texts(body.text_2)
        wire = to_embed(body.model, first, second, exchange.request_id, truncate=body.truncate)
        found = await ask_model(exchange, dispatch, wire, embed_call)
        # Another thread computes them: they can be millions of numbers.
        scores = await asyncio.to_thread(cosines, found.embeddings, len(first))
        answer = ScoreList(
            id=f"score-{exchange.request_id}",
            created=int(time.time()),
            model=body.model,
            data=[Score(index=index, score=each) for index, each in enumerate(scores)],
            usage=EmbeddingUsage(found.prompt_tokens, found.prompt_tokens),
        )
        return Response(msgspec.json.encode(answer), content_type="application/json")

    @RERANK.on(routes)
    async def rerank() -> Response:  # pyright: ignore[reportUnusedFunction]
        exchange = current()
        body = parse_rerank(await read_json())
        wire = to_embed(body.model, [body.query], body.documents, exchange.request_id, truncate=body.truncate)
        found = await ask_model(exchange, dispatch, wire, embed_call)
        scores = await asyncio.to_thread(cosines, found.embeddings, 1)
        answer = Ranking(
            id=f"rerank-{exchange.request_id}",
            model=body.model,
            results=_ranked(body, scores),
            usage=EmbeddingUsage(found.prompt_tokens, found.prompt_tokens),
        )
        return Response(msgspec.json.encode(answer), content_type="application/json")

    return routes


def cosines(vectors: Sequence[pb.Embedding], firsts: int) -> list[float]:
    """Of the first vectors, all of length 1, with the others: of the only one with each, or of pairs."""
    first = [list(each.values) for each in vectors[:firsts]]
    second = [list(each.values) for each in vectors[firsts:]]
    return [sum(map(mul, first[place % firsts], values)) for place, values in enumerate(second)]


def _ranked(body: RerankRequest, scores: Sequence[float]) -> list[Ranked]:
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    shown = body.return_documents is not False
    return [
        Ranked(index, scores[index], Document(body.documents[index]) if shown else msgspec.UNSET)
        for index in order[: body.top_n]
    ]
