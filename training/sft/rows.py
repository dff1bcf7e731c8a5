"""Batches of samples as tensors: each sample in a row of its own, or several in one, none of which sees the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from datasets import Dataset
from transformers import PreTrainedModel
from trl.data_utils import pack_dataset

from training.masks import IGNORED

_Sample = dict[str, list[int]]
_Batch = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Padded:
    """A row for each sample, filled up to the longest one: `[samples, length]`."""

    pad_id: int

    def __call__(self, samples: Sequence[_Sample]) -> _Batch:
        ids = [torch.tensor(sample["input_ids"]) for sample in samples]
        labels = [torch.tensor(sample["labels"]) for sample in samples]
        return {
            "input_ids": _stack(ids, self.pad_id),
            "attention_mask": _stack([torch.ones_like(row) for row in ids], 0),
            "labels": _stack(labels, IGNORED),
        }


@dataclass(frozen=True, slots=True)
class Packed:
    """All samples in one row without padding, `[1, tokens]`: where the positions begin again, another sample begins.

    A packed sample holds several conversations, whose lengths are its `seq_lengths`.
    """

    def __call__(self, samples: Sequence[_Sample]) -> _Batch:
        lengths = [length for sample in samples for length in sample.get("seq_lengths", [len(sample["input_ids"])])]
        ids = torch.tensor([token for sample in samples for token in sample["input_ids"]])
        labels = torch.tensor([label for sample in samples for label in sample["labels"]])
        starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
        labels[starts] = IGNORED  # else the last token of a conversation would be asked for the first of the next
        positions = torch.cat([torch.arange(length) for length in lengths])
        return {"input_ids": ids[None], "labels": labels[None], "position_ids": positions[None]}


def pack(samples: Dataset, length: int) -> Dataset:
    """Samples of up to `length` tokens, each of several of these, the longest first; adds the column `seq_lengths`."""
    return pack_dataset(samples.select_columns(["input_ids", "labels"]), length, "bfd")


@torch.no_grad()
def packs_exactly(model: PreTrainedModel) -> bool:
    """Whether the model computes a conversation in a packed row as it does alone; some architectures do not."""
    training, config = model.training, cast("Any", model.config)
    attention: str = config._attn_implementation
    model.eval()
    if attention.startswith("flash"):
        model.set_attn_implementation("sdpa")  # the model is on no GPU yet
    embeddings: Any = model.get_input_embeddings()
    ids = torch.arange(3, 15, device=model.device) % embeddings.num_embeddings
    apart, together = torch.arange(7, device=model.device), torch.arange(12, device=model.device)
    alone = _logits(model, ids[5:], apart)
    packed = _logits(model, ids, torch.cat([apart[:5], apart]))[5:]
    joined = _logits(model, ids, together)[5:]
    model.train(training)
    if attention.startswith("flash"):
        model.set_attn_implementation(attention)
    return bool((packed - alone).abs().max() < 0.05 * (joined - alone).abs().max())


def _logits(model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids[None], position_ids=positions[None], use_cache=False).logits[0].float()


def _stack(rows: list[torch.Tensor], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
