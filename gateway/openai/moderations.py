"""POST /v1/moderations: whether texts are harmful, by a model that classifies.

The classes of the model are the categories; those of OpenAI's API that it does not know are told as well, as clients
expect them, and never flagged. A class with a harmless name is none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from quart import Blueprint, Response

from gateway.exchange import Exchange, current
from gateway.openai.bodies import read_json
from gateway.openai.classify import MAX_TEXTS, check_texts, of_texts
from gateway.openai.schema import decode
from gateway.openai.ways import ask_model
from gateway.operation import OF_WORKERS, Operation
from gateway.routing.dispatch import Dispatch
from gateway.routing.unary import classify_call
from mesh.errors import invalid
from mesh.v1 import inference_pb2 as pb

CATEGORIES: Final = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
# Names of classes, without case and punctuation, that stand for nothing harmful.
HARMLESS: Final = frozenset(
    {"safe", "ok", "neutral", "clean", "normal", "benign", "harmless", "none", "nontoxic", "nothate", "notoffensive"}
)
_CLASSIFIES: Final = frozenset({pb.CAPABILITY_CLASSIFY})


class Part(msgspec.Struct, forbid_unknown_fields=True):
    """A piece of an input."""

    type: str
    text: str | None = None
    image_url: Any = None


class ModerationRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Body of POST /v1/moderations. Without a model, the one that is served for classes is meant."""

    input: str | list[str | Part]
    model: str | None = None


class Moderation(msgspec.Struct):
    """The verdict on one input."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[str]]


class ModerationList(msgspec.Struct):
    """The answer, in the order of the inputs."""

    id: str
    model: str
    results: list[Moderation]


MODERATIONS: Final = Operation(
    method="POST",
    path="/v1/moderations",
    summary="Whether texts are harmful, by a model that classifies.",
    group="Classes",
    body=ModerationRequest,
    answer=ModerationList,
    errors=OF_WORKERS,
    values={
        "input": f"at most {MAX_TEXTS} texts, or text parts, which are judged together",
        "model": "without it, the only model that classifies",
    },
)
_decoder = msgspec.json.Decoder(ModerationRequest)


def moderation_routes(dispatch: Dispatch, threshold: float) -> Blueprint:
    """The routes. A category is flagged from a score of `threshold` on."""
    routes = Blueprint("moderations", __name__)

    @MODERATIONS.on(routes)
    async def moderations() -> Response:  # pyright: ignore[reportUnusedFunction]
        exchange = current()
        body = decode(_decoder, await read_json())
        texts = _texts(body.input)
        model = body.model if body.model is not None else _only_model(exchange, dispatch)
        # Not cut: what is beyond the model's context would pass unseen.
        wire = of_texts(model, texts, exchange.request_id, truncate=False)
        found = await ask_model(exchange, dispatch, wire, classify_call)
        results = [judged(found.labels, each.scores, threshold, exclusive=found.exclusive) for each in found.results]
        answer = ModerationList(f"modr-{exchange.request_id}", model, results)
        return Response(msgspec.json.encode(answer), content_type="application/json")

    return routes


def _only_model(exchange: Exchange, dispatch: Dispatch) -> str:
    offers = [offer for offer in dispatch.directory.models() if exchange.may_use(offer.name)]
    names = [offer.name for offer in offers if pb.CAPABILITY_CLASSIFY in offer.capabilities]
    if len(names) != 1:
        served = f"several classify: {', '.join(names)}" if names else "none is served that classifies"
        raise invalid("model", f"'model' must be given: {served}")
    return names[0]


def _texts(given: str | list[str | Part]) -> list[str]:
    """The inputs: each text is one, and all parts together are one."""
    if isinstance(given, str):
        given = [given]
    if any(isinstance(each, Part) for each in given):
        given = ["\n".join(_text(index, each) for index, each in enumerate(given))]
    texts = [each for each in given if isinstance(each, str)]
    check_texts(texts)
    return texts


def _text(index: int, part: str | Part) -> str:
    if isinstance(part, str):
        raise invalid(f"input[{index}]", f"'input[{index}]' must be a part, as others of the list are")
    if part.type != "text" or part.text is None:
        raise invalid(f"input[{index}].type", f"'input[{index}]' must be a part of type text: images are not judged")
    return part.text


def judged(labels: Sequence[str], scores: Sequence[float], threshold: float, *, exclusive: bool) -> Moderation:
    """The verdict, by the score of each class. Where they exclude each other, many small harms can be a large one."""
    harms = {_category(label): score for label, score in zip(labels, scores, strict=True) if not _harmless(label)}
    flags = {name: score >= threshold for name, score in harms.items()}
    together = exclusive and len(harms) < len(scores) and sum(harms.values()) >= threshold
    known = dict.fromkeys(CATEGORIES)
    return Moderation(
        flagged=any(flags.values()) or together,
        categories={name: flags.get(name, False) for name in {**known, **flags}},
        category_scores={name: harms.get(name, 0.0) for name in {**known, **harms}},
        category_applied_input_types={name: ["text"] if name in harms else [] for name in {**known, **harms}},
    )


def _plain(label: str) -> str:
    return re.sub(r"[^a-z0-9]", "", label.lower())


def _harmless(label: str) -> bool:
    return _plain(label) in HARMLESS


_BY_PLAIN_NAME: Final = {_plain(name): name for name in CATEGORIES}


def _category(label: str) -> str:
    """OpenAI's name for a class, if it has one."""
    return _BY_PLAIN_NAME.get(_plain(label), label)
