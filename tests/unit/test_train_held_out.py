"""What is evaluated on is nowhere in what is trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, disable_progress_bars
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.templates import builtin
from tests.unit.tokenizers import metaspace
from training.dpo.pairs import Account, pairs
from training.held_out import GROUP, hold_out
from training.masks import Masker
from training.settings import BadSettings
from training.sft.data import Encoder, encode

CHATS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, turns, strict=False)
        ]
    }
    for turns in (("hello", "world", "a", "hello"), ("world", "a", "a", "a"), ("hello", "a"))
]
PIECES = [{**chat, "part_of": "one"} for chat in CHATS[:2]]


def listed(samples: Any) -> list[dict[str, Any]]:
    return list(samples)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=40), st.floats(0.01, 0.99), st.integers(0, 3))
def test_groups_stay_together(groups: list[int], share: float, seed: int) -> None:
    library: Any = Dataset
    samples = library.from_dict({GROUP: groups, "place": list(range(len(groups)))})
    if len(set(groups)) == 1:
        with pytest.raises(BadSettings, match="two questions at least"):
            hold_out(samples, share, seed)
        return
    train, held_out = map(listed, hold_out(samples, share, seed))
    assert sorted(row["place"] for row in (*train, *held_out)) == list(range(len(groups)))
    assert not {row[GROUP] for row in train} & {row[GROUP] for row in held_out}
    assert train
    assert held_out
    again, _ = hold_out(samples, share, seed)
    assert listed(again) == train


def test_answers_of_a_conversation_pieces_of_one_and_equal_questions_are_groups(tmp_path: Path) -> None:
    """An encoder-decoder model's sample is a single answer: others of the same conversation hold its text."""
    disable_progress_bars()
    data = tmp_path / "chats.jsonl"
    data.write_text("".join(json.dumps(chat) + "\n" for chat in (*CHATS, *PIECES)))
    masker = Masker(metaspace(), builtin()["fastchat-t5"].text)
    rows: Any = encode([data], Encoder(masker, pairs=True), tmp_path / "encoded")[0]
    first, second, *others = [row[GROUP] for row in rows]
    assert (first, others[2]) == (second, first)
    assert others[0] == others[1] != first
    assert len({*others[3:]}) == 1
    assert len({first, others[0], others[3]}) == 3


def test_preferences_on_one_prompt_are_a_group(tmp_path: Path) -> None:
    asked = [("hello", "a", "world"), ("hello", "world", "a"), ("world", "a", "hello")]
    lines = [json.dumps(dict(zip(("prompt", "chosen", "rejected"), each, strict=True))) for each in asked]
    (tmp_path / "votes.jsonl").write_text("\n".join(lines))
    masker = Masker(metaspace(), builtin()["vicuna"].text)
    groups = [row[GROUP] for row in pairs([tmp_path / "votes.jsonl"], masker, Account())]
    assert groups[0] == groups[1] != groups[2]
