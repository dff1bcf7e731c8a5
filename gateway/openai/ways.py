"""Where requests go: the models that their names stand for, and what of it clients are told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol, TypeVar

from gateway.exchange import Exchange, Work
from gateway.openai.models import usable
from gateway.openai.schema import GenerationRequest
from gateway.reconnect import Reconnect
from gateway.routing.aliases import Way, along
from gateway.routing.claim import Claim
from gateway.routing.dispatch import Dispatch
from gateway.routing.unary import UnaryCall
from mesh.errors import ErrorKind, MeshError

Doing = TypeVar("Doing", bound=Work)
Answer = TypeVar("Answer")
# What tells apart those who use one key, as clients say it.
_SESSIONS = ("prompt_cache_key", "safety_identifier", "user")
# Models that an error names at most.
_SHOWN = 20
# What routes call that which is the prompt for workers.
_PROMPTS = {
    "/v1/chat/completions": "messages",
    "/v1/decisions": "input",
    "/v1/messages": "messages",
    "/v1/responses": "input",
}


def claim_of(exchange: Exchange) -> Claim:
    """What of an exchange decides when it is served."""
    return Claim(exchange.tenant, exchange.priority, exchange.deadline, holds=exchange.inside is None)


def note_model(exchange: Exchange, dispatch: Dispatch, model: str) -> None:
    """Raise forbidden for a model that the key does not allow, by the name that the client uses; name the one that it
    stands for in metrics if it is one of ours."""
    exchange.check_model(model)
    meant = dispatch.aliases.models(model)
    exchange.hide(model, meant)
    if dispatch.directory.knows(meant[0]):
        exchange.model = meant[0]


def way_of(exchange: Exchange, dispatch: Dispatch, body: GenerationRequest, reconnect: Reconnect) -> Way:
    """The way of a request that generates. One that goes on with an answer goes to a model that can have begun it."""
    session = next((found for name in _SESSIONS if (found := getattr(body, name, None))), "")
    nonce = reconnect.identity.nonce
    who = f"{exchange.tenant}\n{session}".encode() if exchange.tenant or session else nonce
    way = dispatch.aliases.way(body.model, who=who, request=nonce)
    if reconnect.after is None or not way.alias:
        return way
    begun = reconnect.after.facts.model
    models = [each for each in dispatch.aliases.models(body.model) if dispatch.directory.fingerprint(each, begun)]
    return replace(way, models=tuple(models) or way.models, shadows=())


async def follow(
    exchange: Exchange,
    dispatch: Dispatch,
    way: Way,
    start: Callable[[str], Doing],
    answer: Callable[[Doing], Awaitable[Answer]],
) -> tuple[Doing, Answer]:
    """Start the work of an exchange on the first model of its way that can take it, and wait for its answer."""

    def begin(model: str) -> Doing:
        exchange.generation = work = start(model)
        return work

    try:
        work, found, detour = await along(way, dispatch.directory, begin, answer)
    except MeshError as error:
        raise as_heard(exchange, dispatch, error) from None
    exchange.model = work.model
    if way.alias:
        exchange.alias, exchange.detour = way.name, detour
        how = "fallback" if detour else "named" if work.model == dispatch.aliases.models(way.name)[0] else "split"
        dispatch.metrics.alias_requests.labels(way.name, work.model, how).inc()
    return work, found


def as_heard(exchange: Exchange, dispatch: Dispatch, error: MeshError) -> MeshError:
    """An error in the words of the client's API; of a model that is not there, with those that its key may use."""
    if error.kind is ErrorKind.MODEL_NOT_FOUND:
        names = [offer.name for offer in usable(exchange, dispatch.directory, dispatch.aliases)]
        served = f"; served: {', '.join(names[:_SHOWN])}{', …' if names[_SHOWN:] else ''}" if names else ""
        return MeshError(error.kind, error.message + served, param=error.param)
    return error.renamed("prompt", _PROMPTS.get(exchange.route, "prompt"))


class _Request(Protocol):
    model: str


Wire = TypeVar("Wire", bound=_Request)


async def ask_model(
    exchange: Exchange,
    dispatch: Dispatch,
    wire: Wire,
    call: Callable[[Wire, Dispatch, Claim], UnaryCall[Answer]],
) -> Answer:
    """The one answer to a request that has one."""
    note_model(exchange, dispatch, wire.model)
    who = exchange.tenant.encode() or exchange.request_id.encode()
    way = dispatch.aliases.way(wire.model, who=who, request=b"")

    def start(model: str) -> UnaryCall[Answer]:
        wire.model = model
        return call(wire, dispatch, claim_of(exchange))

    _, found = await follow(exchange, dispatch, way, start, lambda work: work.run())
    return found
