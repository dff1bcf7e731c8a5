"""Conversations in files: the body of a chat request, as JSON. FastChat's own files can be read, too."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from mesh.cli.chat.conversation import Conversation
from mesh.cli.chat.parameters import PARAMETERS, Value, check
from mesh.errors import invalid


@dataclass(frozen=True)
class Saved:
    """What a file holds. `left_out`: fields of it that a conversation here does not have."""

    conversation: Conversation
    model: str | None = None
    parameters: dict[str, Value] = field(default_factory=dict[str, Value])
    left_out: tuple[str, ...] = ()


def save(path: Path, saved: Saved) -> None:
    """Write a file, over one that is there. Raises OSError."""
    body = {"model": saved.model, "messages": saved.conversation.all_messages(), **saved.parameters}
    path.write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class _Message(msgspec.Struct):
    """What a message must have; the rest is kept as it is."""

    role: str
    content: str | list[dict[str, Any]] | None = None


class _Body(msgspec.Struct):
    messages: list[_Message]
    model: str | None = None


class _FastChat(msgspec.Struct):
    """Its messages are a role, by the template's name for it, and a text; null where the answer was due."""

    template_name: str
    roles: tuple[str, str]
    messages: list[tuple[str, str | None]]
    system_message: str = ""


def load(path: Path) -> Saved:
    """Read a file: the body of a chat request, a list of messages, or what FastChat saves.

    Raises OSError and MeshError.
    """
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        body: dict[str, Any] = {"messages": found} if isinstance(found, list) else found
        if "template_name" in body:
            return Saved(_of_fastchat(msgspec.convert(body, _FastChat)))
        model = msgspec.convert(body, _Body).model
    except (ValueError, TypeError, RecursionError, msgspec.ValidationError) as error:
        raise invalid("file", f"{path} holds no conversation: {error}") from None
    options = {name: check(name, body[name]) for name in PARAMETERS if body.get(name) is not None}
    others = set(body) - {"model", "messages", *PARAMETERS}
    return Saved(Conversation.of(body["messages"]), model, options, tuple(sorted(others)))


def _of_fastchat(found: _FastChat) -> Conversation:
    user, assistant = found.roles
    names = {user: "user", assistant: "assistant"}
    for role, _ in found.messages:
        if role not in names:
            raise ValueError(f"a message is of '{role}', not of {user} or {assistant}")
    said = [{"role": names[role], "content": text} for role, text in found.messages if text is not None]
    return Conversation(found.system_message or None, said)
