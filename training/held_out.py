"""What is kept back to be evaluated on: questions that training has nowhere."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, Final, cast

from datasets import Dataset

from training.conversations import Conversation
from training.data.sampling import together
from training.settings import BadSettings

GROUP: Final = "group"
"""The column by which samples stay together."""


def group(conversation: Conversation) -> int:
    """Equal for conversations with the same first question and for pieces of one: `mesh data train-test` has the same
    rule."""
    return int.from_bytes(together(conversation)[:8], "big", signed=True)


def hold_out(samples: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """What to train on, and about a share of the samples to evaluate on, drawn by groups. Raises BadSettings."""
    groups = cast("list[int]", list(cast("Any", samples)[GROUP]))
    sizes = Counter(groups)
    drawn = sorted(sizes)
    random.Random(seed).shuffle(drawn)
    if len(drawn) < 2:
        raise BadSettings("--eval-ratio needs two questions at least: one to train on, one to evaluate on")
    held: set[int] = set()
    count = 0
    for each in drawn[:-1]:
        if count >= max(1, round(share * len(groups))):
            break
        held.add(each)
        count += sizes[each]
    sides = [[place for place, each in enumerate(groups) if (each in held) == chosen] for chosen in (False, True)]
    train, held_out = (samples.select(places) for places in sides)
    return train, held_out
