"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
from quart import Blueprint, Response, request

from gateway.exchange import Exchange, current
from gateway.openai.answers import Model, ModelList
from gateway.operation import UNKNOWN, Operation
from gateway.routing.capability import names
from gateway.routing.directory import Directory, Offer
from mesh.errors import ErrorKind, MeshError

LIST_MODELS = Operation(
    method="GET", path="/v1/models", summary="The models that are served.", group="Models", answer=ModelList
)
GET_MODEL = Operation(
    method="GET",
    path="/v1/models/<path:model_id>",  # names of models may contain slashes
    summary="One model.",
    group="Models",
    answer=Model,
    errors=UNKNOWN,
)

Page = Callable[[Sequence[Offer], Mapping[str, str]], msgspec.Struct]
"""Writes a list of models, of which a query may want a part."""
One = Callable[[Offer], msgspec.Struct]
"""Writes a model."""


def model_routes(directory: Directory, *, anthropic_page: Page, anthropic_one: One) -> Blueprint:
    """The routes of the models API; clients of Anthropic's API, which has it at the same paths, get its shapes."""
    routes = Blueprint("models", __name__)

    @LIST_MODELS.on(routes)
    async def list_models() -> Response:  # pyright: ignore[reportUnusedFunction]
        offers = _offers(directory)
        if _exchange().anthropic:
            return _json(anthropic_page(offers, request.args))
        return _json(ModelList([_model(offer) for offer in offers]))

    @GET_MODEL.on(routes)
    async def get_model(model_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        for offer in _offers(directory):
            if offer.name == model_id:
                return _json(anthropic_one(offer) if _exchange().anthropic else _model(offer))
        raise MeshError(ErrorKind.MODEL_NOT_FOUND, f"the model '{model_id[:200]}' does not exist here", param="model")

    return routes


def _offers(directory: Directory) -> list[Offer]:
    """The models that the request's key may use: of others it does not hear."""
    return [offer for offer in directory.models() if _exchange().may_use(offer.name)]


def _exchange() -> Exchange:
    return current(request.scope)  # pyright: ignore[reportArgumentType]


def _model(offer: Offer) -> Model:
    length = offer.context_length
    root, parent = offer.base or offer.name, offer.base or None
    return Model(offer.name, offer.created, length, length, root, parent, names(offer.capabilities))


def _json(body: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(body), content_type="application/json")
