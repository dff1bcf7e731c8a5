"""Request bodies of /v1/score, which is vLLM's, and of /v1/rerank, which is Jina's and Cohere's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.openai.schema import decode
from mesh.errors import invalid, out_of_range
from mesh.v1 import inference_pb2 as pb

MAX_TEXTS: Final = 2048
Texts = str | list[str]


class ScoreRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Body of POST /v1/score: one text against each of others, or as many pairs as both lists have texts."""

    model: str
    text_1: Texts
    text_2: Texts

    # Whether texts that are longer than the model's context are cut instead of refused.
    truncate: bool | None = None

    # Accepted; it changes nothing here.
    user: str | None = None


class RerankRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Body of POST /v1/rerank."""

    model: str
    query: str
    documents: list[str]
    top_n: int | None = None
    return_documents: bool | None = None
    truncate: bool | None = None

    # Accepted; it changes nothing here.
    user: str | None = None


_scores = msgspec.json.Decoder(ScoreRequest)
_reranks = msgspec.json.Decoder(RerankRequest)


def parse_score(body: bytes) -> ScoreRequest:
    """Decode and check a body. Raises MeshError (invalid_request) naming field, limit and value."""
    request = decode(_scores, body)
    first, second = texts(request.text_1), texts(request.text_2)
    _check("text_1", first)
    _check("text_2", second)
    if len(first) not in (1, len(second)):
        text = f"'text_1' must be one text or have as many as 'text_2' ({len(second)}), not {len(first)}"
        raise invalid("text_1", text)
    _check_total("text_2", len(first) + len(second))
    return request


def parse_rerank(body: bytes) -> RerankRequest:
    """Decode and check a body. Raises MeshError (invalid_request) naming field, limit and value."""
    request = decode(_reranks, body)
    _check("query", [request.query])
    _check("documents", request.documents)
    _check_total("documents", 1 + len(request.documents))
    if request.top_n is not None and request.top_n < 1:
        raise out_of_range("top_n", request.top_n, 1, len(request.documents))
    return request


def to_embed(
    model: str, first: Sequence[str], second: Sequence[str], request_id: str, *, truncate: bool | None
) -> pb.EmbedRequest:
    """The wire's request: vectors of length 1, the first texts' and then the others'."""
    wire = pb.EmbedRequest(request_id=request_id, model=model, truncate=bool(truncate), normalize=True)
    for text in (*first, *second):
        wire.inputs.add(text=text)
    return wire


def to_pairs(
    model: str, first: Sequence[str], second: Sequence[str], request_id: str, *, truncate: bool | None
) -> pb.ClassifyRequest:
    """The same for a model that judges pairs: the only first text with each of the others, or pair by pair."""
    wire = pb.ClassifyRequest(request_id=request_id, model=model, truncate=bool(truncate))
    for index, text in enumerate(second):
        wire.inputs.add(pair=pb.TextPair(first=first[index % len(first)], second=text))
    return wire


def texts(given: Texts) -> list[str]:
    """One or more texts."""
    return [given] if isinstance(given, str) else given


def _check(name: str, given: Sequence[str]) -> None:
    if not given:
        raise invalid(name, f"'{name}' must hold at least one text")
    if "" in given:
        raise invalid(name, f"'{name}' must not hold an empty text, as at index {list(given).index('')}")


def _check_total(name: str, count: int) -> None:
    if count > MAX_TEXTS:
        raise invalid(name, f"a request must have at most {MAX_TEXTS} texts in all, not {count}")
