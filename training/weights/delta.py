"""Differences of models: a delta is the target minus the base, in the files and under the names of the target.

Embeddings may have other sizes, as where training has added tokens: rows that the base lacks count as zeros there, so
that a delta holds them as they are, and rows that the target lacks are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import torch

from mesh.config import ConfigError
from mesh.counted import counted
from training.weights.checkpoint import (
    DTYPES,
    by_pieces,
    cast_to,
    declare_dtype,
    declared_dtype,
    read_tensors,
    write_tensors,
)
from training.weights.convert import like
from training.weights.folders import copy_beside, read_json, write_json, written

RECORD: Final = "delta.json"
# Made from the configuration when a model is loaded; old checkpoints hold it, new ones do not.
_COMPUTED: Final = "rotary_emb.inv_freq"
_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}


@dataclass
class _Tally:
    """What came out otherwise than meant: numbers, or tensors of which there were so many."""

    tensors: int = 0
    numbers: int = 0
    inexact: int = 0
    worst: float = 0.0
    record: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])


def make(base: Path, target: Path, output: Path, dtype: torch.dtype | None, max_shard_size: int) -> str:
    """Write the delta and say how exactly it gives the target back."""
    pair = _Pair.read(base, target)
    tally = _Tally()

    def difference(name: str) -> torch.Tensor:
        ours, theirs = pair.base(name), pair.other[name]
        tally.record[name] = {"base": digest(pair.bases[name]), "target": digest(theirs)}
        if not theirs.is_floating_point():
            return theirs
        tally.record[name]["dtype"] = _NAMES.get(theirs.dtype, "")
        found = _exactly(torch.sub, name, dtype or theirs.dtype, theirs, ours)
        _compare(tally, _exactly(torch.add, name, theirs.dtype, ours, found), theirs)
        return found

    with written(output) as folder:
        copy_beside(target, folder)
        shapes = {name: like(tensor, dtype or tensor.dtype) for name, tensor in pair.other.items()}
        files = write_tensors(folder, shapes, difference, max_shard_size)
        write_json(folder / RECORD, {"tensors": dict(sorted(tally.record.items()))})
    return f"{counted(len(shapes), 'difference')} in {counted(files, 'file')} in {output}, {_exactness(tally)}"


def apply(base: Path, delta: Path, output: Path, dtype: torch.dtype | None, max_shard_size: int) -> str:
    """Write base plus delta, a complete model; refuses another base than the delta was made from, if that is told."""
    pair = _Pair.read(base, delta)
    record: Mapping[str, dict[str, str]] = {}
    if (delta / RECORD).is_file():
        record = read_json(delta / RECORD).get("tensors", {})
    formats = _formats(pair.other, record, dtype or declared_dtype(delta / "config.json"), forced=dtype is not None)
    tally = _Tally()

    def sum_(name: str) -> torch.Tensor:
        told = record.get(name, {})
        if told and told["base"] != digest(pair.bases[name]):
            raise ConfigError(f"'{base}' is not the model that the delta was made from: its '{name}' is another")
        found = pair.other[name]
        if found.is_floating_point():
            found = _exactly(torch.add, name, formats[name].dtype, pair.base(name), found)
        tally.tensors += bool(told) and told["target"] != digest(found)
        return found

    with written(output) as folder:
        copy_beside(delta, folder)
        if dtype is not None:
            declare_dtype(folder / "config.json", dtype)
        files = write_tensors(folder, formats, sum_, max_shard_size)
    return f"{counted(len(formats), 'tensor')} in {counted(files, 'file')} in {output}, {_verdict(record, tally)}"


def digest(tensor: torch.Tensor) -> str:
    """A fingerprint of shape, format and numbers."""
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    found = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    found.update(cast(Any, flat.numpy()))
    return found.hexdigest()[:16]


@dataclass(frozen=True)
class _Pair:
    """A base and what belongs to it, a target or a delta, with the same names."""

    bases: Mapping[str, torch.Tensor]
    other: Mapping[str, torch.Tensor]

    @classmethod
    def read(cls, base: Path, other: Path) -> _Pair:
        """Raises ConfigError naming the tensor that does not fit."""
        pair = cls(_learnt(base), _learnt(other))
        for name in sorted(pair.bases.keys() ^ pair.other.keys()):
            has, lacks = (base, other) if name in pair.bases else (other, base)
            raise ConfigError(f"'{has}' has '{name}', '{lacks}' has not: they are not of one kind")
        sizes = _vocabulary(base), _vocabulary(other)
        for name, tensor in pair.other.items():
            ours, theirs = pair.bases[name].shape, tensor.shape
            resized = len(ours) > 0 and ours[1:] == theirs[1:] and (ours[0], theirs[0]) == sizes
            if ours != theirs and not resized:
                raise ConfigError(f"'{name}' is {_times(ours)} in '{base}' and {_times(theirs)} in '{other}'")
        return pair

    def base(self, name: str) -> torch.Tensor:
        """The base's tensor with as many rows as the other one has."""
        tensor, rows = self.bases[name], self.other[name].shape[:1]
        if tensor.shape[:1] == rows:
            return tensor
        fitted = torch.zeros(self.other[name].shape, dtype=tensor.dtype)
        shared = min(tensor.shape[0], rows[0])
        fitted[:shared] = tensor[:shared]
        return fitted


def _learnt(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in read_tensors(folder).items() if not name.endswith(_COMPUTED)}


def _vocabulary(folder: Path) -> int:
    config = read_json(folder / "config.json")
    text: Mapping[str, Any] = config.get("text_config") or {}
    return int(config.get("vocab_size") or text.get("vocab_size") or 0)


def _times(shape: torch.Size) -> str:
    return " x ".join(map(str, shape)) or "one number"


def _exactly(
    operation: Callable[..., torch.Tensor], name: str, dtype: torch.dtype, left: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    """A sum or difference, rounded once."""

    def piece(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        return cast_to(name, operation(ours.double(), theirs.double()), dtype)

    return by_pieces(piece, dtype, left, right)


def _compare(tally: _Tally, back: torch.Tensor, wanted: torch.Tensor) -> None:
    def piece(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        off = (ours.double() - theirs.double()).abs()
        tally.inexact += int(off.count_nonzero())
        tally.worst = max(tally.worst, float(off.max()))
        return ours

    by_pieces(piece, back.dtype, back, wanted)
    tally.numbers += back.numel()


def _exactness(tally: _Tally) -> str:
    if not tally.inexact:
        return "which give the target back, number for number"
    return (
        f"which give back {1 - tally.inexact / tally.numbers:.4%} of {tally.numbers:,} numbers exactly, "
        f"the others within {tally.worst:.2g}"
    )


def _formats(
    delta: Mapping[str, torch.Tensor],
    record: Mapping[str, Mapping[str, str]],
    dtype: torch.dtype | None,
    *,
    forced: bool,
) -> dict[str, torch.Tensor]:
    """What the result looks like: in the format that was asked for, else the target's, the declared, the delta's."""

    def of(name: str, tensor: torch.Tensor) -> torch.dtype:
        told = None if forced else DTYPES.get(record.get(name, {}).get("dtype", ""))
        return told or dtype or tensor.dtype

    return {name: like(tensor, of(name, tensor)) for name, tensor in delta.items()}


def _verdict(record: Mapping[str, Any], tally: _Tally) -> str:
    if not record:
        return f"unchecked: the delta holds no {RECORD}"
    if tally.tensors:
        return f"of which {tally.tensors:,} differ from the delta's target by rounding"
    return "equal to the delta's target, number for number"
