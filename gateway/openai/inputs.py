"""Texts in the four forms of the API: a text, a list of texts, a list of token ids, or a list of such lists."""

from __future__ import annotations

from typing import cast

from gateway.openai.schema import UINT32
from mesh.errors import invalid, out_of_range

Inputs = str | list[str | int | list[int]]


def each_input(given: Inputs) -> list[str | list[int]]:
    """One or more inputs, each a text or token ids; to be checked before."""
    if isinstance(given, str):
        return [given]
    if isinstance(given[0], int):
        return [cast("list[int]", given)]
    return cast("list[str | list[int]]", given)


def check_inputs(param: str, given: Inputs) -> None:
    """Raise invalid_request for an empty list, a mixture, or what is no token id."""
    if isinstance(given, str):
        return
    if not given:
        raise invalid(param, f"'{param}' must hold at least one text or token id")
    if len({type(item) for item in given}) > 1:
        raise invalid(
            param,
            f"'{param}' must be a text, a list of texts, a list of token ids, or a list of such lists, not a mixture",
        )
    for ids in each_input(given):
        if isinstance(ids, list):
            _check_ids(param, ids)


def _check_ids(param: str, ids: list[int]) -> None:
    if not ids:
        raise invalid(param, f"each list of token ids in '{param}' must hold at least one")
    for token in ids:
        if not 0 <= token <= UINT32:
            raise out_of_range(param, token, 0, UINT32)
