"""`mesh data decontaminate`: what a benchmark asks is not learnt by heart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from mesh.config import ConfigError, option
from training.conversations import BadConversation, Conversation, conversation
from training.data.tool import Dropped, Step, Tool
from training.data.words import ngrams, words
from training.reading import BadFile, Record, chunks

_FIELDS: Final = ("turns", "question", "prompt", "instruction", "problem", "query", "input", "text")
_FEWEST: Final = 5
"""Words below which a question is no evidence: many people say hello."""


@dataclass(frozen=True, kw_only=True)
class Decontaminate(Tool):
    """Drop conversations that share an n-gram with a benchmark's questions."""

    benchmark: tuple[Path, ...] = option((), "A file of questions: JSON lines, JSON, Parquet or text; may be repeated.")
    ngram: int = option(
        13, "Words in a row that count; shorter questions count as a whole, from 5 words on.", low=_FEWEST
    )
    field: tuple[str, ...] = option(
        (), f"The field that holds a question; may be repeated. Else: {', '.join(_FIELDS)}."
    )

    def __post_init__(self) -> None:
        if not self.benchmark:
            raise ConfigError("--benchmark is required: a file of questions")

    def check(self) -> None:
        if not _questions(self):
            raise ConfigError(f"--benchmark: no question of {_FEWEST} words or more in {_named(self)}")

    def step(self) -> Step:
        known = _questions(self)

        def keep(given: Conversation) -> Iterator[Conversation | Dropped]:
            for message in given.everything:
                if found := _asked(words(message.text), known):
                    yield Dropped(given, "words of the benchmark", found)
                    return
            yield given

        return keep


def _asked(said: list[str], known: Mapping[str, set[str]]) -> str | None:
    """What of the benchmark is said, in words."""
    for start, beginning in enumerate(ngrams(said, _FEWEST)):
        for asked in known.get(beginning, ()):
            if " ".join(said[start : start + 1 + asked.count(" ")]) == asked:
                return asked
    return None


def _named(options: Decontaminate) -> str:
    return ", ".join(map(str, options.benchmark))


@cache
def _questions(options: Decontaminate) -> Mapping[str, set[str]]:
    """What gives the questions away, by its first words."""
    known: dict[str, set[str]] = {}
    for path in options.benchmark:
        for text in _texts(path, options.field or _FIELDS):
            said = words(text)
            if len(said) >= _FEWEST:
                for asked in ngrams(said, min(options.ngram, len(said))):
                    known.setdefault(" ".join(asked.split(" ", _FEWEST)[:_FEWEST]), set()).add(asked)
    return known


def _texts(path: Path, fields: tuple[str, ...]) -> Iterator[str]:
    try:
        if path.suffix == ".txt":
            yield from path.read_text(encoding="utf-8").splitlines()
            return
        for record in (record for chunk in chunks(path) for record in chunk.records):
            yield from _of_record(record, fields)
    except (BadFile, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--benchmark {path}: {error}") from None


def _of_record(record: Record, fields: tuple[str, ...]) -> Iterator[str]:
    try:
        value: Any = msgspec.json.decode(record.value) if isinstance(record.value, bytes) else record.value
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadFile(f"{record.origin}: broken JSON: {error}") from None
    asked = [message.content for message in _messages(value) if message.role == "user"]
    if not asked and isinstance(value, dict):
        found = cast("dict[str, Any]", value)
        asked = [text for name in fields for text in _strings(found.get(name))]
    if not asked:
        raise BadFile(f"{record.origin}: no question in {', '.join(fields)}; name its field with --field")
    yield from asked


def _messages(value: Any) -> tuple[Any, ...]:
    try:
        return conversation(value).messages
    except BadConversation:
        return ()


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for inner in cast("list[Any]", value):
            yield from _strings(inner)
