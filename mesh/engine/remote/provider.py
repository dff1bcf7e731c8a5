"""What is different from provider to provider."""

from __future__ import annotations

import json
from typing import Any, Protocol

from mesh.engine.base import Constraint, Message, Request
from mesh.engine.remote.answer import Answer
from mesh.errors import MeshError, invalid


class Provider(Protocol):
    """How one provider's API is spoken."""

    capabilities: frozenset[str]

    def headers(self, key: str | None) -> dict[str, str]:
        """The headers that carry the key."""
        ...

    def path(self, request: Request) -> str:
        """Where to post, below the base URL."""
        ...

    def body(self, request: Request) -> dict[str, Any]:
        """The request in the provider's form. Raises MeshError for what it cannot honour."""
        ...

    def answer(self, request: Request) -> Answer:
        """A reader for the answer."""
        ...


OWN_URL = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com/v1",
    "google": "https://generativelanguage.googleapis.com/v1beta",
}


def text_of(message: Message) -> str:
    """The text of a message in one piece."""
    return "\n".join(part for part in message.parts or () if isinstance(part, str))


def schema_of(constraint: Constraint) -> dict[str, Any]:
    """The JSON schema of a constraint on JSON."""
    if constraint.kind == "json_object":
        return {"type": "object"}
    schema = json.loads(str(constraint.value))
    if not isinstance(schema, dict):
        raise invalid("json_schema", "'json_schema' must be a JSON object with this provider")
    return schema  # pyright: ignore[reportUnknownVariableType]


def arguments_of(text: str) -> dict[str, Any]:
    """The arguments of an earlier call as an object."""
    error: MeshError = invalid("messages", "'messages' holds a tool call whose arguments are not a JSON object")
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        raise error from None
    if not isinstance(value, dict):
        raise error
    return value  # pyright: ignore[reportUnknownVariableType]
