"""`mesh data first-round` and `mesh data model`: a part of the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, cast

from mesh.config import ConfigError, option
from training.conversations import Conversation
from training.data.tool import Changed, Dropped, Step, Tool


@dataclass(frozen=True, kw_only=True)
class FirstRound(Tool):
    """Keep the first question and its answer of each conversation, with the system's message."""

    def step(self) -> Step:
        return _first_round


def _first_round(conversation: Conversation) -> Iterator[Conversation | Dropped | Changed]:
    if conversation.rejected:
        yield Dropped(conversation, "a preference, which cannot be cut")
        return
    first = next(conversation.exchanges(), ())
    answered = [message.role == "assistant" and not message.calls for message in first]
    if not first or first[0].role != "user" or True not in answered:
        yield Dropped(conversation, "no question with an answer at the beginning")
        return
    messages = conversation.system() + first[: answered.index(True) + 1]
    if len(messages) < len(conversation.messages):
        yield Changed("later messages removed", len(conversation.messages) - len(messages))
    yield replace(conversation, messages=messages)


@dataclass(frozen=True, kw_only=True)
class Model(Tool):
    """Keep the answers of some models."""

    name: tuple[str, ...] = option((), "The model's name, or a pattern as gpt-4*; case matters not; may be repeated.")
    field: str = option("model", "The field that says the model; a dot leads into objects, as meta.model.")

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("--name is required: the models to keep")

    def step(self) -> Step:
        patterns = [name.lower() for name in self.name]

        def keep(conversation: Conversation) -> Iterator[Conversation | Dropped]:
            found = _field(conversation, self.field)
            if not isinstance(found, str):
                yield Dropped(conversation, f"no field '{self.field}' that names a model")
            elif not any(fnmatchcase(found.lower(), pattern) for pattern in patterns):
                yield Dropped(conversation, "another model", found)
            else:
                yield conversation

        return keep


def _field(conversation: Conversation, path: str) -> Any:
    value: Any = conversation.extra
    for key in path.split("."):
        value = cast("dict[str, Any]", value).get(key) if isinstance(value, dict) else None
    return value
