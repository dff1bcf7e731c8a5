"""POST /v1/score and /v1/rerank: how near texts are to each other, by a cross-encoder that judges pairs of them, or by
the cosine of their embeddings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

import msgspec
from quart import Blueprint, Response

from gateway.exchange import Exchange, current
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
    to_pairs,
)
from gateway.openai.ways import ask_model
from gateway.operation import OF_WORKERS, Operation
from gateway.routing.dispatch import Dispatch
from gateway.routing.unary import classify_call, embed_call
from mesh.errors import unsupported
from mesh.v1 import inference_pb2 as pb


class Score(msgspec.Struct, kw_only=True):
    """The score of one pair: as the cross-encoder has it, or a cosine."""

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
    """A document with its place in the request, and its score."""

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
    summary="How near texts are to each other, by a cross-encoder or by their embeddings.",
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
    summary="Put documents in the order of their nearness to a query, likewise.",
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
        found = await _scores(exchange, dispatch, body.model, first, second, truncate=body.truncate)
        answer = ScoreList(
            id=f"score-{exchange.request_id}",
            created=int(time.time()),
            model=body.model,
            data=[Score(index=index, score=each) for index, each in enumerate(found.scores)],
            usage=EmbeddingUsage(found.tokens, found.tokens),
        )
        return Response(msgspec.json.encode(answer), content_type="application/json")

    @RERANK.on(routes)
    async def rerank() -> Response:  # pyright: ignore[reportUnusedFunction]
        exchange = current()
        body = parse_rerank(await read_json())
        query, documents = [body.query], body.documents
        found = await _scores(exchange, dispatch, body.model, query, documents, truncate=body.truncate)
        answer = Ranking(
            id=f"rerank-{exchange.request_id}",
            model=body.model,
            results=_ranked(body, found.scores),
            usage=EmbeddingUsage(found.tokens, found.tokens),
        )
        return Response(msgspec.json.encode(answer), content_type="application/json")

    return routes


@dataclass(frozen=True, slots=True)
class _Scores:
    """Of each pair, and the tokens of all texts."""

    scores: list[float]
    tokens: int


async def _scores(
    exchange: Exchange,
    dispatch: Dispatch,
    model: str,
    first: Sequence[str],
    second: Sequence[str],
    *,
    truncate: bool | None,
) -> _Scores:
    """Of the first texts with the others: of the only one with each, or of pairs."""
    if _judges_pairs(dispatch, model):
        pairs = to_pairs(model, first, second, exchange.request_id, truncate=truncate)
        judged = await ask_model(exchange, dispatch, pairs, classify_call)
        if len(judged.labels) != 1:
            text = f"the model '{model[:200]}' has {len(judged.labels)} classes, and the score of a pair is that of one"
            raise unsupported("model", text)
        return _Scores([each.scores[0] for each in judged.results], judged.prompt_tokens)
    wire = to_embed(model, first, second, exchange.request_id, truncate=truncate)
    found = await ask_model(exchange, dispatch, wire, embed_call)
    # Another thread computes them: they can be millions of numbers.
    return _Scores(await asyncio.to_thread(cosines, found.embeddings, len(first)), found.prompt_tokens)


def _judges_pairs(dispatch: Dispatch, model: str) -> bool:
    """Whether a model, the first one that its name stands for, classifies."""
    meant = dispatch.aliases.models(model)[0]
    offers = (offer for offer in dispatch.directory.models() if offer.name == meant)
    return any(pb.CAPABILITY_CLASSIFY in offer.capabilities for offer in offers)


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
