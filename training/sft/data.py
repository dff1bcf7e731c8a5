"""Conversations as token ids and labels on the disk, and the account of what was left out and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

from datasets import Dataset, Features, List, Value
from datasets.exceptions import DatasetGenerationError

from mesh.counted import counted
from training.conversations import Conversation
from training.held_out import GROUP, group
from training.masks import Masker, Unmaskable, chat_message
from training.reading import BadRecord, read_conversations

_COLUMNS: Final[Mapping[str, Any]] = {
    GROUP: Value("int64"),
    "input_ids": List(Value("int32")),
    "labels": List(Value("int32")),
    "length": Value("int32"),
    "supervised": Value("int32"),
    "truncated": Value("bool"),
    "refusal": Value("string"),
    "detail": Value("string"),
}
_NO_CONVERSATION: Final = "it is no conversation"


@dataclass
class Account:
    """What became of the conversations of some files."""

    conversations: int = 0
    samples: int = 0
    truncated: int = 0
    tokens: int = 0
    supervised: int = 0
    refused: dict[str, int] = field(default_factory=dict[str, int])
    examples: dict[str, str] = field(default_factory=dict[str, str])
    """Of each reason for a refusal the first case."""

    def lines(self) -> Iterator[str]:
        """For people."""
        tokens = f"{counted(self.tokens, 'token')}, {self.supervised:,} of them in answers"
        yield f"{counted(self.conversations, 'conversation')}: {counted(self.samples, 'sample')} of {tokens}"
        if self.truncated:
            yield f"  {self.truncated} are longer than the limit and were cut at their ends"
        for reason, count in self.refused.items():
            yield f"  {count} refused: {reason} ({self.examples[reason]})"


@dataclass(frozen=True)
class Encoder:
    """Samples of conversations: one of each, or for an encoder-decoder model one of each answer."""

    masker: Masker
    pairs: bool

    def __call__(self, batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        """A batch of conversations as `datasets` maps it; a conversation that is refused gives a row without tokens."""
        given = [json.loads(text) for text in batch["conversation"]]
        rows = [{GROUP: one.get(GROUP, 0), **row} for one in given for row in self._rows(one)]
        return {name: [row[name] for row in rows] for name in _COLUMNS}

    def _rows(self, given: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if given.get("bad"):
            yield _refused(_NO_CONVERSATION, given["bad"])
            return
        masker = replace(self.masker, tools=given["tools"]) if given["tools"] else self.masker
        try:
            samples = masker.pairs(given["messages"]) if self.pairs else [masker.sample(given["messages"])]
        except Unmaskable as refused:
            yield _refused(str(refused.refusal), f"{given['name']}: {refused}")
            return
        for sample in samples:
            yield {
                "input_ids": sample.input_ids,
                "labels": sample.labels,
                "length": len(sample.input_ids),
                "supervised": sample.supervised,
                "truncated": sample.truncated,
                "refusal": "",
                "detail": "",
            }


def encode(
    paths: Sequence[Path], encoder: Encoder, folder: Path, *, limit: int | None = None, processes: int = 1
) -> tuple[Dataset, Account]:
    """The samples of some files as a data set on the disk, in `folder`, and the account of them.

    Columns: `input_ids`, `labels`, `length` (tokens of the input), and `group`, by which samples are held out. Raises
    BadFile.
    """
    texts = _written(paths, limit, folder)
    rows = texts.map(
        encoder,
        batched=True,
        batch_size=100,
        remove_columns=texts.column_names,
        features=Features(_COLUMNS),
        num_proc=processes if processes > 1 else None,
        cache_file_name=str(folder / "rows.arrow"),
        desc="Tokenising",
    )
    account = _account(rows, len(texts))
    kept = rows.filter(
        _accepted,
        batched=True,
        input_columns=["refusal"],
        cache_file_name=str(folder / "kept.arrow"),
    )
    return kept.select_columns(["input_ids", "labels", "length", GROUP]), account


def _written(paths: Sequence[Path], limit: int | None, folder: Path) -> Any:
    """The conversations as rows on the disk. Raises BadFile."""
    given = {"paths": [str(path) for path in paths], "limit": limit}
    try:
        return cast("Any", Dataset).from_generator(_conversations, gen_kwargs=given, cache_dir=str(folder))
    except DatasetGenerationError as error:
        raise error.__cause__ or error from None


def _accepted(refusals: list[str]) -> list[bool]:
    return [not refusal for refusal in refusals]


def _conversations(paths: list[str], limit: int | None) -> Iterator[dict[str, str]]:
    """The conversations as JSON texts, since the shapes of their parts differ; and what is wrong with the others."""
    bad: list[BadRecord] = []
    found_ones = read_conversations(map(Path, paths), bad.append)
    for number, found in enumerate(islice(found_ones, limit), 1):
        while bad:
            yield {"conversation": json.dumps({"bad": str(bad.pop(0))})}
        yield {"conversation": json.dumps(_checked(found, number))}
    for refused in bad:
        yield {"conversation": json.dumps({"bad": str(refused)})}


def _checked(found: Conversation, number: int) -> dict[str, Any]:
    try:
        return _plain(found, number)
    except ValueError as error:
        return {"bad": f"conversation {number}: tools or their calls are no JSON: {error}"}


def _plain(found: Conversation, number: int) -> dict[str, Any]:
    tools: Any = found.extra.get("tools") or []
    return {
        GROUP: group(found),
        "name": found.id or f"conversation {number}",
        "messages": [chat_message(message) for message in found.messages],
        "tools": json.loads(tools) if isinstance(tools, str) else tools,
    }


def _refused(reason: str, detail: str) -> dict[str, Any]:
    nothing: dict[str, Any] = {"input_ids": [], "labels": [], "length": 0, "supervised": 0, "truncated": False}
    return {**nothing, "refusal": reason, "detail": detail[:300]}


def _account(rows: Dataset, conversations: int) -> Account:
    account = Account(conversations)
    reasons: Counter[str] = Counter()
    columns = ["length", "supervised", "truncated", "refusal", "detail"]
    parts = cast("Iterator[dict[str, list[Any]]]", rows.select_columns(columns).iter(10_000))
    for part in parts:
        account.samples += part["refusal"].count("")
        account.truncated += sum(part["truncated"])
        account.tokens += sum(part["length"])
        account.supervised += sum(part["supervised"])
        reasons.update(filter(None, part["refusal"]))
        for reason, detail in zip(part["refusal"], part["detail"], strict=True):
            if reason:
                account.examples.setdefault(reason, detail)
    account.refused = dict(reasons.most_common())
    return account
