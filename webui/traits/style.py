"""What can please in an answer besides what it says: length, headers, lists, bold."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from webui.traits.text import pieces, without_code

_HEADER: Final = re.compile(r"^ {0,3}#{1,6}\s+\S", re.MULTILINE)
_ITEM: Final = re.compile(r"^\s*(?:[-*+]|\d{1,3}[.)])\s+\S", re.MULTILINE)
_BOLD: Final = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")


@dataclass(frozen=True, slots=True)
class Style:
    """Counts over the answers of one side: pieces of text, headers, list items, bold spans. Code has only a length."""

    length: int = 0
    headers: int = 0
    lists: int = 0
    bold: int = 0


def style(answers: Iterable[str]) -> Style:
    """The style of these answers together."""
    length = headers = lists = bold = 0
    for answer in answers:
        prose = without_code(answer)
        length += pieces(answer)
        headers += len(_HEADER.findall(prose))
        lists += len(_ITEM.findall(prose))
        bold += len(_BOLD.findall(prose))
    return Style(length, headers, lists, bold)
