"""Preferences as token ids: the two answers to a prompt, and which tokens of each belong to answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import torch

from mesh.counted import counted
from training.conversations import Conversation
from training.held_out import GROUP, group
from training.masks import IGNORED, ChatMessage, Masker, Refusal, Sample, Unmaskable, chat_message
from training.reading import BadRecord, read_conversations

SIDES: Final = ("chosen", "rejected")


@dataclass
class Account:
    """What became of the preferences of some files."""

    preferences: int = 0
    pairs: int = 0
    truncated: int = 0
    refused: dict[str, int] = field(default_factory=dict[str, int])
    examples: dict[str, str] = field(default_factory=dict[str, str])
    """Of each reason for a refusal the first case."""

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{counted(self.preferences, 'preference')}: {counted(self.pairs, 'pair')}"
        if self.truncated:
            yield f"  {self.truncated} are longer than the limit and were cut at their ends"
        for reason, count in sorted(self.refused.items(), key=lambda item: -item[1]):
            yield f"  {count} refused: {reason} ({self.examples[reason]})"

    def refuse(self, reason: str, detail: str) -> None:
        """Count one that is left out."""
        self.refused[reason] = self.refused.get(reason, 0) + 1
        self.examples.setdefault(reason, detail[:300])


def pairs(
    paths: Sequence[Path], masker: Masker, account: Account, limit: int | None = None
) -> Iterator[dict[str, Any]]:
    """The preferences of some files as rows: of each side `_ids` and `_labels`, and their group. Raises BadFile.

    Labels are those of answers after the prompt: neither earlier answers nor what the user asked in between count. A
    preference that cannot be masked exactly is refused, with its reason in the account.
    """
    found_ones = read_conversations(paths, lambda bad: _no_conversation(bad, account))
    for number, found in enumerate(islice(found_ones, limit), 1):
        account.preferences += 1
        name = found.id or f"preference {number}"
        if not found.rejected:
            account.refuse("it is no preference: it lacks a rejected answer", name)
            continue
        try:
            chosen, rejected = _sides(found, masker)
        except (Unmaskable, ValueError) as refused:
            reason = refused.refusal if isinstance(refused, Unmaskable) else "tools or their calls are no JSON"
            account.refuse(str(reason), f"{name}: {refused}")
            continue
        if chosen == rejected:
            account.refuse("both answers are the same", name)
            continue
        account.pairs += 1
        account.truncated += chosen.truncated or rejected.truncated
        yield {GROUP: group(found), **_row(chosen, rejected)}


@dataclass(frozen=True, slots=True)
class Collator:
    """Batches as TRL's DPOTrainer reads them: all chosen answers, then all rejected ones, `[2 x pairs, length]`."""

    pad_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = [torch.tensor(row[f"{side}_ids"]) for side in SIDES for row in rows]
        labels = [torch.tensor(row[f"{side}_labels"]) for side in SIDES for row in rows]
        batch = {
            "input_ids": _stack(ids, self.pad_id),
            "attention_mask": _stack([torch.ones_like(row) for row in ids], 0),
            "completion_mask": _stack([(row != IGNORED).long() for row in labels], 0),
        }
        for name in (f"ref_{side}_logps" for side in SIDES):  # there once they were computed beforehand
            if name in rows[0]:
                batch[name] = torch.tensor([row[name] for row in rows])
        return batch


def _stack(rows: list[torch.Tensor], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def _no_conversation(bad: BadRecord, account: Account) -> None:
    account.preferences += 1
    account.refuse("it is no conversation", str(bad))


def _sides(found: Conversation, masker: Masker) -> tuple[Sample, Sample]:
    prompt = [chat_message(message) for message in found.messages[: found.prompt_length]]
    better = [chat_message(message) for message in found.messages[found.prompt_length :]]
    worse = [chat_message(message) for message in found.rejected]
    chosen, rejected = (_after(prompt, answer, masker) for answer in (better, worse))
    return chosen, rejected


def _after(prompt: list[ChatMessage], answer: list[ChatMessage], masker: Masker) -> Sample:
    """The whole conversation, with the labels of what comes after the prompt alone. Raises Unmaskable."""
    sample = masker.sample([*prompt, *answer])
    before = masker.tokenizer.encode(masker.render(prompt, prompt=True), add_special_tokens=False)
    ids = zip(before, sample.input_ids, strict=False)
    shared = next((place for place, (one, other) in enumerate(ids) if one != other), len(before))
    labels = [IGNORED] * shared + sample.labels[shared:]
    if all(label == IGNORED for label in labels):
        raise Unmaskable(Refusal.TOO_LONG, f"the prompt has {len(before)} tokens")
    return replace(sample, labels=labels)


def _row(chosen: Sample, rejected: Sample) -> dict[str, Any]:
    return {
        f"{side}_{name}": value
        for side, sample in zip(SIDES, (chosen, rejected), strict=True)
        for name, value in (("ids", sample.input_ids), ("labels", sample.labels))
    }
