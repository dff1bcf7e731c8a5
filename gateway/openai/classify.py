"""POST /v1/classify and /classify, as vLLM has it: the probabilities of the classes that a model knows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import msgspec
from quart import Blueprint, Response

from gateway.exchange import current
from gateway.openai.bodies import read_json
from gateway.openai.embeddings import EmbeddingUsage
from gateway.openai.schema import decode
from gateway.openai.ways import ask_model
from gateway.operation import OF_WORKERS, Operation
from gateway.routing.dispatch import Dispatch
from gateway.routing.unary import classify_call
from mesh.errors import invalid
from mesh.v1 import inference_pb2 as pb

MAX_TEXTS: Final = 2048


class ClassifyBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Body of POST /v1/classify."""

    model: str
    input: str | list[str]

    # Extensions: logits instead of probabilities if false, and whether texts that are longer than the model's context
    # are cut instead of refused.
    use_activation: bool | None = None
    truncate: bool | None = None

    # Accepted; it changes nothing here.
    user: str | None = None


class Classified(msgspec.Struct):
    """The likeliest class of a text, and the scores of all, in the model's order."""

    index: int
    label: str
    probs: list[float]
    num_classes: int


class ClassifiedList(msgspec.Struct, kw_only=True):
    """The answer, in the order of the texts."""

    id: str
    object: str = "list"
    created: int
    model: str
    data: list[Classified]
    usage: EmbeddingUsage


_decoder = msgspec.json.Decoder(ClassifyBody)


def _operation(path: str) -> Operation:
    return Operation(
        method="POST",
        path=path,
        summary="The classes of texts, by a model with a head for them.",
        group="Classes",
        body=ClassifyBody,
        answer=ClassifiedList,
        errors=OF_WORKERS,
        values={"input": f"at most {MAX_TEXTS} texts, none empty", "use_activation": "true by default"},
        ignored=("user",),
    )


CLASSIFY: Final = _operation("/v1/classify")
CLASSIFY_OF_VLLM: Final = _operation("/classify")


def classify_routes(dispatch: Dispatch) -> Blueprint:
    """The routes."""
    routes = Blueprint("classify", __name__)

    async def classify() -> Response:
        exchange = current()
        body = _parse(await read_json())
        texts = [body.input] if isinstance(body.input, str) else body.input
        wire = of_texts(body.model, texts, exchange.request_id, truncate=body.truncate)
        wire.raw = body.use_activation is False
        found = await ask_model(exchange, dispatch, wire, classify_call)
        answer = ClassifiedList(
            id=f"classify-{exchange.request_id}",
            created=int(time.time()),
            model=body.model,
            data=[_classified(index, each.scores, found.labels) for index, each in enumerate(found.results)],
            usage=EmbeddingUsage(found.prompt_tokens, found.prompt_tokens),
        )
        return Response(msgspec.json.encode(answer), content_type="application/json")

    CLASSIFY.on(routes)(classify)
    CLASSIFY_OF_VLLM.on(routes)(classify)
    return routes


def of_texts(model: str, texts: Sequence[str], request_id: str, *, truncate: bool | None) -> pb.ClassifyRequest:
    """The wire's request."""
    wire = pb.ClassifyRequest(request_id=request_id, model=model, truncate=bool(truncate))
    for text in texts:
        wire.inputs.add(text=text)
    return wire


def check_texts(given: str | list[str]) -> None:
    """Raise invalid_request for no text, an empty one, or too many."""
    texts = [given] if isinstance(given, str) else given
    if not 1 <= len(texts) <= MAX_TEXTS:
        raise invalid("input", f"'input' must hold 1 to {MAX_TEXTS} texts, not {len(texts)}")
    if "" in texts:
        raise invalid("input", f"'input' must not hold an empty text, as at index {texts.index('')}")


def _parse(data: bytes) -> ClassifyBody:
    body = decode(_decoder, data)
    check_texts(body.input)
    return body


def _classified(index: int, scores: Sequence[float], labels: Sequence[str]) -> Classified:
    best = max(range(len(scores)), key=scores.__getitem__)
    return Classified(index, labels[best], list(scores), len(scores))
