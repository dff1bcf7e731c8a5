"""What can be set for the answers, by the names of the chat API."""

from __future__ import annotations

import difflib
import json
from typing import Any, Final

from mesh.errors import MeshError, invalid

Value = float | int | bool | str | list[Any] | dict[str, Any]

PARAMETERS: Final[dict[str, tuple[tuple[type, ...], str]]] = {
    "temperature": ((float, int), "a number; 0 takes the likeliest token"),
    "top_p": ((float, int), "a number up to 1: the likeliest tokens up to this mass"),
    "top_k": ((int,), "a whole number: so many of the likeliest tokens"),
    "min_p": ((float, int), "a number up to 1: tokens at least so likely beside the likeliest"),
    "typical_p": ((float, int), "a number up to 1"),
    "frequency_penalty": ((float, int), "a number from -2 to 2"),
    "presence_penalty": ((float, int), "a number from -2 to 2"),
    "repetition_penalty": ((float, int), "a number; 1 is none"),
    "max_tokens": ((int,), "a whole number: the longest answer"),
    "min_tokens": ((int,), "a whole number: the shortest answer"),
    "seed": ((int,), "a whole number: equal seeds give equal answers"),
    "stop": ((str, list), "a text that ends the answer, or a JSON list of some"),
    "ignore_eos": ((bool,), "true or false"),
    "reasoning_effort": ((str,), "none, minimal, low, medium, high, xhigh or max"),
    "chat_template_kwargs": ((dict,), "a JSON object for the chat template"),
}


def parse(name: str, text: str) -> Value:
    """The value of a parameter as typed: JSON where it can be read so, else text. Raises MeshError."""
    kinds, meaning = _known(name)
    try:
        value: Any = json.loads(text)
    except ValueError:
        value = text
    if str in kinds and not isinstance(value, list):
        value = value if isinstance(value, str) else text
    return _checked(name, value, kinds, meaning)


def check(name: str, value: Any) -> Value:
    """A value from a file. Raises MeshError."""
    return _checked(name, value, *_known(name))


def _checked(name: str, value: Any, kinds: tuple[type, ...], meaning: str) -> Value:
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise invalid(name, f"'{name}' must be {meaning}, not '{value}'")
    return value


def _known(name: str) -> tuple[tuple[type, ...], str]:
    if name in PARAMETERS:
        return PARAMETERS[name]
    raise unknown("parameter", name, list(PARAMETERS))


def unknown(kind: str, name: str, known: list[str]) -> MeshError:
    """There is no such thing, but perhaps one whose name is near."""
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {match[0]}?" if match else f"; there are: {', '.join(known)}"
    return invalid(kind, f"unknown {kind} '{name}'{hint}")
