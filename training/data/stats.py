"""`mesh data stats`: what is in the data, as tables, JSON and plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import RenderableType
from rich.table import Table

from mesh.config import ConfigError, option
from training.conversations import Conversation
from training.data.language import conversation_language
from training.data.summary import Facts, Summary, distribution
from training.data.tokens import token_counter
from training.data.tool import Gate, Item, Refused, Tool
from training.data.writing import check_output
from training.reading import BadFile, chunks

_SHOWN: Final = 12
"""Rows of a table of languages or models."""


@dataclass(frozen=True, kw_only=True)
class Stats(Tool):
    """Tell turns, lengths, tokens, languages and models of the data, and why conversations were dropped."""

    tokenizer: str | None = option(None, "Count tokens, too, by this model: a folder, a tokenizer.json, or a hub name.")
    dropped: tuple[Path, ...] = option((), "A file that --keep-dropped wrote: count its reasons; may be repeated.")
    json: Path | None = option(None, "Write all numbers to this file.")
    report: Path | None = option(None, "Write plots to this file, an HTML page that needs no network.")

    def check(self) -> None:
        for flag, path in (("--json", self.json), ("--report", self.report)):
            if path is not None:
                check_output(flag, path)
        for path in self.dropped:
            if not path.exists():
                raise ConfigError(f"--dropped {path}: no such file")
        if self.tokenizer is not None:
            token_counter(self.tokenizer)

    def mark(self) -> Callable[[Conversation], bytes] | None:
        encode = msgspec.msgpack.Encoder().encode
        return lambda conversation: encode(_facts(conversation, self.tokenizer))

    def gate(self) -> Gate | None:
        return _Collector(self)


def _facts(conversation: Conversation, tokenizer: str | None) -> Facts:
    answers = [message for message in conversation.everything if message.role == "assistant"]
    numbers = {
        "exchanges": sum(1 for _ in conversation.exchanges()),
        "messages": len(conversation.everything),
        "characters": sum(len(message.text) for message in conversation.everything),
        "characters of answers": sum(len(message.text) for message in answers),
    }
    if tokenizer is not None:
        count = token_counter(tokenizer)
        numbers["tokens"] = sum(count(message.text) for message in conversation.everything)
        numbers["tokens of answers"] = sum(count(message.text) for message in answers)
    model = conversation.extra.get("model")
    return Facts(numbers, conversation_language(conversation), model if isinstance(model, str) else "")


class _Collector(Gate):
    """Lets everything pass and counts."""

    def __init__(self, options: Stats) -> None:
        self._options = options
        self._summary = Summary()

    def decide(self, items: Iterable[Item]) -> Iterator[Item | Refused]:
        decode = msgspec.msgpack.Decoder(Facts).decode
        for item in items:
            self._summary.add(decode(item.mark))
            yield item

    def conclusion(self) -> Iterator[RenderableType]:
        summary = self._summary
        summary.dropped = _reasons(self._options.dropped)
        if self._options.json is not None:
            self._options.json.write_bytes(msgspec.json.format(msgspec.json.encode(summary.record())) + b"\n")
        if self._options.report is not None:
            from training.data.plots import page

            self._options.report.write_text(page(summary), encoding="utf-8")
        if not summary.numbers:
            yield "No conversations."
            return
        yield _distributions(summary.numbers)
        for title, counts in (
            ("language", summary.languages),
            ("model", summary.models),
            ("dropped because of", summary.dropped),
        ):
            if counts:
                yield _shares(title, counts)


def _reasons(paths: Iterable[Path]) -> Counter[str]:
    """What `--keep-dropped` wrote, counted."""
    found: Counter[str] = Counter()
    try:
        for record in (record for path in paths for chunk in chunks(path) for record in chunk.records):
            value: Any = msgspec.json.decode(record.value) if isinstance(record.value, bytes) else record.value
            found[f"{value['dropped']['by']}: {value['dropped']['reason']}"] += 1
    except (KeyError, TypeError, msgspec.DecodeError):
        raise ConfigError("--dropped must be files that --keep-dropped wrote") from None
    except BadFile as error:
        raise ConfigError(f"--dropped: {error}") from None
    return found


def _distributions(numbers: Mapping[str, Counter[int]]) -> Table:
    table = Table("of a conversation", box=None, header_style="bold", pad_edge=False)
    rows = {name: distribution(values) for name, values in numbers.items()}
    for column in next(iter(rows.values())):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(f"{value:,}" for value in row.values()))
    return table


def _shares(title: str, counts: Counter[str]) -> Table:
    table = Table(title, box=None, header_style="bold", pad_edge=False)
    table.add_column("conversations", justify="right")
    table.add_column("share", justify="right")
    total = counts.total()
    for name, count in counts.most_common(_SHOWN):
        table.add_row(name, f"{count:,}", f"{count / total:.1%}")
    if (rest := len(counts) - _SHOWN) > 0:
        others = total - sum(count for _, count in counts.most_common(_SHOWN))
        table.add_row(f"{rest} others", f"{others:,}", f"{others / total:.1%}")
    return table
