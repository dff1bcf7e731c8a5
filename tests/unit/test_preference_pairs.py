"""Preferences as tokens: what is trained on are the answers after the prompt, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from mesh.demo import model_path
from training.dpo.pairs import Account, Collator, pairs
from training.masks import IGNORED, Masker

USER = {"role": "user", "content": "Hello! What can you do?"}
Message = dict[str, str]


def answer(text: str) -> Message:
    return {"role": "assistant", "content": text}


@pytest.fixture(scope="module")
def masker() -> Masker:
    library: Any = AutoTokenizer
    tokenizer = library.from_pretrained(model_path())
    return Masker(tokenizer, tokenizer.chat_template, 64)


def rows(tmp_path: Path, masker: Masker, *records: Any) -> tuple[list[dict[str, Any]], Account]:
    """What becomes of the records."""
    path, account = tmp_path / "pairs.jsonl", Account()
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return list(pairs([path], masker, account)), account


def trained_on(masker: Masker, row: dict[str, Any], side: str) -> str:
    """The text of the tokens that count."""
    labels = [label for label in row[f"{side}_labels"] if label != IGNORED]
    return str(masker.tokenizer.decode(labels))


def test_the_answers_after_the_prompt_count(tmp_path: Path, masker: Masker) -> None:
    prompt = [USER, answer("I can chat."), {"role": "user", "content": "And sums?"}]
    (row,), account = rows(
        tmp_path, masker, {"prompt": prompt, "chosen": [answer("Yes, small ones.")], "rejected": [answer("No.")]}
    )
    assert trained_on(masker, row, "chosen") == "Yes, small ones.<|end|>"
    assert trained_on(masker, row, "rejected") == "No.<|end|>"
    whole = masker.tokenizer.decode(row["chosen_ids"])
    assert whole == masker.render([*prompt, answer("Yes, small ones.")], prompt=False)
    assert (account.preferences, account.pairs, account.refused) == (1, 1, {})


def test_what_the_user_asks_between_two_answers_does_not_count(tmp_path: Path, masker: Masker) -> None:
    again = {"role": "user", "content": "And then?"}
    (row,), _ = rows(
        tmp_path,
        masker,
        {
            "prompt": [USER],
            "chosen": [answer("One."), again, answer("Two.")],
            "rejected": [answer("Three."), again, answer("Four.")],
        },
    )
    assert trained_on(masker, row, "chosen") == "One.<|end|>Two.<|end|>"
    assert trained_on(masker, row, "rejected") == "Three.<|end|>Four.<|end|>"


def test_what_is_refused_is_counted_by_reason(tmp_path: Path, masker: Masker) -> None:
    good = {"prompt": "Hi", "chosen": "Hello!", "rejected": "Go away."}
    long = {"role": "user", "content": "word " * 80}
    kept, account = rows(
        tmp_path,
        masker,
        good,
        {**good, "rejected": "Hello!"},
        {**good, "chosen": " "},
        {**good, "prompt": [long], "id": "long"},
        {"messages": [USER, answer("Hello!")]},
        {"text": "?"},
    )
    assert len(kept) == account.pairs == 1
    assert account.preferences == 6
    assert account.refused == {
        "both answers are the same": 1,
        "an answer is empty": 1,
        "no token of an answer is within the maximum length": 1,
        "it is no preference: it lacks a rejected answer": 1,
        "it is no conversation": 1,
    }
    assert "long" in account.examples["no token of an answer is within the maximum length"]
    assert len([*account.lines()]) == 6


def test_a_batch_has_the_chosen_answers_first(tmp_path: Path, masker: Masker) -> None:
    found, _ = rows(
        tmp_path,
        masker,
        {"prompt": "Hi", "chosen": "Hello to you!", "rejected": "No."},
        {"prompt": "Hi", "chosen": "Yes.", "rejected": "What do you want?"},
    )
    batch = Collator(0)(found)
    assert [row["chosen_ids"] for row in found] == unpadded(batch)[:2]
    assert [row["rejected_ids"] for row in found] == unpadded(batch)[2:]
    counted = batch["completion_mask"].sum().item()
    labels = [label for row in found for side in ("chosen", "rejected") for label in row[f"{side}_labels"]]
    assert counted == sum(label != IGNORED for label in labels)
    assert not (batch["completion_mask"] > batch["attention_mask"]).any()


def unpadded(batch: dict[str, torch.Tensor]) -> list[list[int]]:
    both = zip(batch["input_ids"], batch["attention_mask"], strict=True)
    return [row[mask.bool()].tolist() for row, mask in both]
