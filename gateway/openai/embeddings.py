"""POST /v1/embeddings."""

from __future__ import annotations

import asyncio
import sys
from array import array
from base64 import b64encode
from collections.abc import Iterable

import msgspec
from quart import Blueprint, Response

from gateway.exchange import current
from gateway.openai.bodies import read_json
from gateway.openai.embedding_schema import MAX_INPUTS, EmbeddingRequest, parse_embedding, to_embed
from gateway.openai.schema import UINT32
from gateway.openai.ways import ask_model
from gateway.operation import OF_WORKERS, Operation
from gateway.routing.dispatch import Dispatch
from gateway.routing.unary import embed_call
from mesh.v1 import inference_pb2 as pb


class Embedding(msgspec.Struct):
    """One vector: numbers, or base64 of little-endian float32."""

    object: str
    index: int
    embedding: list[float] | str


class EmbeddingUsage(msgspec.Struct):
    """Token counts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct):
    """The answer."""

    object: str
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


EMBEDDINGS = Operation(
    method="POST",
    path="/v1/embeddings",
    summary="Turn texts into vectors.",
    group="Embeddings",
    body=EmbeddingRequest,
    answer=EmbeddingList,
    errors=OF_WORKERS,
    ranges=(("dimensions", 1, UINT32),),
    values={"encoding_format": "float, base64", "input": f"at most {MAX_INPUTS}, none empty"},
    ignored=("user",),
)


def embedding_routes(dispatch: Dispatch) -> Blueprint:
    """The routes of the embeddings API."""
    routes = Blueprint("embeddings", __name__)

    @EMBEDDINGS.on(routes)
    async def embeddings() -> Response:  # pyright: ignore[reportUnusedFunction]
        exchange = current()
        body = parse_embedding(await read_json())
        response = await ask_model(exchange, dispatch, to_embed(body, exchange.request_id), embed_call)
        # Another thread writes them: they can be millions of numbers.
        answer = await asyncio.to_thread(render, response, body.model, body.encoding_format == "base64")
        return Response(answer, content_type="application/json")

    return routes


def render(response: pb.EmbedResponse, model: str, as_base64: bool) -> bytes:
    """The body of the answer."""
    data = [
        Embedding("embedding", index, _base64(each.values) if as_base64 else list(each.values))
        for index, each in enumerate(response.embeddings)
    ]
    usage = EmbeddingUsage(response.prompt_tokens, response.prompt_tokens)
    return msgspec.json.encode(EmbeddingList("list", data, model, usage))


def _base64(values: Iterable[float]) -> str:
    numbers = array("f", values)
    if sys.byteorder == "big":
        numbers.byteswap()
    return b64encode(numbers.tobytes()).decode()
