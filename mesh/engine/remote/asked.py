"""What a request asks for, by name, so that everything a provider cannot honour is refused rather than dropped."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import MISSING, fields
from typing import Any

from mesh.engine.base import Chat, Image, Message, Request
from mesh.errors import invalid, unsupported

# Not options of the answer: the worker, the engine's queue and the credit see to them. A tenant's requests share the
# provider's own prompt cache with those of others, if it has one: docs/models.md says so.
_HANDLED = frozenset({"key", "request_id", "model", "prompt", "priority", "tenant", "credit", "deadline"})
# `seed` and `n` by value; `best_of` equal to `n` asks for nothing.
_SPECIAL = frozenset({"seed", "drawn_seed", "best_of"})


def refuse(request: Request, honoured: Collection[str], provider: str) -> None:
    """Raise for the first thing asked for that is not in `honoured`."""
    for name, param in asked(request):
        if name not in honoured:
            raise unsupported(param, f"'{param}' cannot be used: {_reason(name)} with the provider {provider}")


def asked(request: Request) -> Iterator[tuple[str, str]]:
    """Name of each option that is not at its default, and the request's field that holds it."""
    sampling = request.sampling
    if not sampling.drawn_seed:
        yield "seed", "seed"
    if sampling.best_of not in (None, sampling.n):
        yield "best_of", "best_of"
    yield from _changed(sampling, _SPECIAL)
    yield from _changed(request.output)
    if request.constraint is not None:
        yield request.constraint.kind, request.constraint.kind
    yield from _changed(request, _HANDLED | {"sampling", "output", "constraint"})
    yield from _asked_of_prompt(request)


def _asked_of_prompt(request: Request) -> Iterator[tuple[str, str]]:
    prompt = request.prompt
    if not isinstance(prompt, Chat):
        yield type(prompt).__name__.lower(), "prompt"
        return
    yield from _changed(prompt, {"messages", "template_hints"})  # a provider's model has no template to read these
    for message in prompt.messages:
        yield from _asked_of_message(message)


def _asked_of_message(message: Message) -> Iterator[tuple[str, str]]:
    for name, _ in _changed(message, {"role", "parts"}):
        yield f"messages.{name}", f"messages.{name}"
    for part in message.parts or ():
        if isinstance(part, Image):
            if not part.media_type:
                raise invalid("messages", "an image of 'messages' must say its media type, such as image/png")
            yield "images", "messages"
            if part.detail != "auto":
                yield "images.detail", "messages"


def _changed(options: Any, but: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """The fields of a dataclass that are not at their default."""
    for spec in fields(options):
        default = spec.default_factory() if spec.default_factory is not MISSING else spec.default
        if spec.name not in but and getattr(options, spec.name) != default:
            yield spec.name, spec.name


def _reason(name: str) -> str:
    match name:
        case "text" | "tokens":
            return f"a prompt as {name} has no meaning"
        case "images.detail":
            return "the detail of an image has no meaning"
        case "resume":
            return "an answer cannot be gone on with"
        case _:
            return "it is not supported"
