"""Numbers of things, for people."""

from __future__ import annotations


def counted(number: int, what: str) -> str:
    """`1 vote`, `2,000 votes`, for whatever has its plural with an s. Of several words the first is counted."""
    noun, space, rest = what.partition(" ")
    return f"{number:,} {noun}{'' if number == 1 else 's'}{space}{rest}"
