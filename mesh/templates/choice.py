"""Which chat template a model gets: the one that was asked for, else its tokenizer's own, else a built-in one that its
name or its configuration calls for. Never one that merely might fit: a base model has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.errors import invalid
from mesh.templates import Template, find, guess, parse


@dataclass(frozen=True, slots=True)
class Choice:
    """A template, and why; without one the tokenizer's own is used, if it has one."""

    template: Template | None
    reason: str


@dataclass(frozen=True, slots=True)
class Stops:
    """What ends an answer besides the model's own ends of turn."""

    strings: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = ()


def choose_template(given: str | None, tokenizer: Any, names: Sequence[str], model_type: str) -> Choice:
    """The template for a model of this `tokenizer` (of transformers) that goes by these names.

    `given` is the name of a built-in template, the path of a file, or jinja text. Raises invalid_request.
    """
    if given is not None:
        return Choice(read_template(given), "as asked for")
    if tokenizer.chat_template:
        return Choice(None, "the tokenizer's own")
    guessed = guess(names, model_type)
    if guessed is None:
        return Choice(None, "none: the tokenizer has none, and neither name nor type of the model calls for one")
    template, reason = guessed
    known = tokenizer.get_vocab()
    if missing := [token for token in template.tokens if token not in known]:
        return Choice(None, f"none: by {reason} it would be {template.name}, but the tokenizer has no '{missing[0]}'")
    return Choice(template, f"built in, by {reason}")


def read_template(given: str) -> Template:
    """The template of this name, in this file, or of this text; text has braces, which hardly any file's name has."""
    if "{" in given:
        return parse("given", given)
    if template := find(given):
        return template
    try:
        text = Path(given).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise invalid(
            "chat_template",
            f"'chat_template' is neither a built-in template (`mesh templates` lists them) nor a readable file nor "
            f"jinja text: '{given}'",
        ) from error
    return parse(Path(given).name, text)


def find_stops(template: Template, tokenizer: Any) -> Stops:
    """The ends of answers that the template names: as tokens where the tokenizer has them as such."""
    added: dict[str, int] = tokenizer.get_added_vocab()
    strings = tuple(text for text in template.stop if text not in added)
    return Stops(strings, tuple(added[text] for text in template.stop if text in added))
