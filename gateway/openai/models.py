"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import msgspec
from quart import Blueprint, Response, request

from gateway.exchange import Exchange, current
from gateway.openai.answers import Model, ModelList
from gateway.operation import UNKNOWN, Operation
from gateway.routing.aliases import Aliases
from gateway.routing.capability import names
from gateway.routing.directory import Directory, Offer, unknown_model
from mesh.v1.registry_pb2 import Alias

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


def model_routes(directory: Directory, aliases: Aliases, *, anthropic_page: Page, anthropic_one: One) -> Blueprint:
    """The routes of the models API; clients of Anthropic's API, which has it at the same paths, get its shapes."""
    routes = Blueprint("models", __name__)

    def allowed() -> list[Offer]:
        """What the request's key may use: of others it does not hear."""
        return usable(_exchange(), directory, aliases)

    @LIST_MODELS.on(routes)
    async def list_models() -> Response:  # pyright: ignore[reportUnusedFunction]
        offers = allowed()
        if _exchange().anthropic:
            return _json(anthropic_page(offers, request.args))
        return _json(ModelList([_model(offer, offers) for offer in offers]))

    @GET_MODEL.on(routes)
    async def get_model(model_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        offers = allowed()
        for offer in offers:
            if offer.name == model_id:
                return _json(anthropic_one(offer) if _exchange().anthropic else _model(offer, offers))
        raise unknown_model(model_id)

    return routes


def usable(exchange: Exchange, directory: Directory, aliases: Aliases) -> list[Offer]:
    """What an exchange's key may use."""
    return [offer for offer in listed(directory.models(), aliases.items()) if exchange.may_use(offer.name)]


def listed(served: Sequence[Offer], aliases: Sequence[tuple[str, Alias]]) -> list[Offer]:
    """The models that are served, and the names that stand for any of them."""
    found = {offer.name: offer for offer in served}
    for name, alias in aliases:
        models = (alias.model, *alias.fallbacks)
        offer = next((offer for model in models for offer in served if offer.name == model), None)
        if offer is not None and name not in found:
            found[name] = replace(offer, name=name, base="", alias_of=offer.name)
    return sorted(found.values(), key=lambda offer: offer.name)


def _exchange() -> Exchange:
    return current()


def _model(offer: Offer, offers: Sequence[Offer]) -> Model:
    """One of the offers that a client hears of, as it hears of it."""
    heard = {each.name for each in offers}
    return Model(
        id=offer.name,
        created=offer.created,
        context_length=offer.context_length,
        max_model_len=offer.context_length,
        root=next((name for name in (offer.alias_of, offer.base) if name in heard), offer.name),
        parent=offer.base if offer.base in heard else None,
        capabilities=names(offer.capabilities),
        adapters=[each.name for each in offers if each.base == offer.name],
        aliases=[each.name for each in offers if each.alias_of == offer.name],
    )


def _json(body: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(body), content_type="application/json")
