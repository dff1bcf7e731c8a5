"""The tensors of a model's files, of which nothing is in memory until it is used, and new files, one at a time."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, cast

import huggingface_hub
import safetensors.torch
import torch
from safetensors import SafetensorError

from mesh.config import ConfigError
from training.weights.folders import read_json, write_json

DTYPES: Final = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_PIECE: Final = 2**20
_INDEX: Final = "model.safetensors.index.json"


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors by name, as views of the mapped files: safetensors if there are any, else torch's own (*.bin).

    Tensors of a pickle that are one and the same stay so. Raises ConfigError naming the file.
    """
    files = _files(folder)
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        found = _of_safetensors(file) if file.suffix == ".safetensors" else _of_pickle(file)
        if twice := tensors.keys() & found.keys():
            raise ConfigError(f"'{min(twice)}' is in two files of '{folder}'")
        tensors |= found
    return tensors


def write_tensors(
    folder: Path,
    shapes: Mapping[str, torch.Tensor],
    tensor: Callable[[str], torch.Tensor],
    max_shard_size: int,
) -> int:
    """Write safetensors of at most `max_shard_size` bytes each (one tensor at least), and their index.

    `shapes` tells what will be there: tensors of the shapes and number formats to come, which may be of the device
    meta. `tensor(name)` makes one; those of one file are in memory at a time. Returns the number of files.
    """
    meta = {name: torch.empty(like.shape, dtype=like.dtype, device="meta") for name, like in shapes.items()}
    split = huggingface_hub.split_torch_state_dict_into_shards(meta, max_shard_size=int(max_shard_size))
    for file, names in split.filename_to_tensors.items():
        _write_file(folder / file, names, tensor)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return len(split.filename_to_tensors)


def by_pieces(function: Callable[..., torch.Tensor], dtype: torch.dtype, *given: torch.Tensor) -> torch.Tensor:
    """`function` of tensors of one shape, piece by piece: what it needs in between is bounded."""
    result = torch.empty(given[0].shape, dtype=dtype)
    flat = [tensor.contiguous().reshape(-1) for tensor in given]
    for start in range(0, result.numel(), _PIECE):
        end = start + _PIECE
        result.view(-1)[start:end] = function(*(tensor[start:end] for tensor in flat))
    return result


def cast_to(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The tensor in another number format; whole numbers stay. Raises ConfigError if a value becomes infinite."""
    if not tensor.is_floating_point() or tensor.dtype == dtype:
        return tensor
    lost = 0

    def piece(values: torch.Tensor) -> torch.Tensor:
        nonlocal lost
        changed = values.to(dtype)
        lost += int((changed.isinf() & values.isfinite()).sum())
        return changed

    changed = by_pieces(piece, dtype, tensor)
    if lost:
        limit = torch.finfo(dtype).max
        raise ConfigError(f"{lost:,} numbers of '{name}' are beyond {limit:g}, the largest of {_name(dtype)}")
    return changed


def declare_dtype(file: Path, dtype: torch.dtype) -> None:
    """Say in a config.json which number format the weights have, in parts of it that say so as well."""
    config = read_json(file)
    _replace_dtype(config, _name(dtype))
    if "torch_dtype" not in config:
        config["dtype"] = _name(dtype)
    write_json(file, config)


def declared_dtype(file: Path) -> torch.dtype | None:
    """The number format that a config.json tells."""
    config = read_json(file)
    return DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")))


def _write_file(file: Path, names: Iterable[str], tensor: Callable[[str], torch.Tensor]) -> None:
    """By itself, so that nothing of it is in memory when the next one is made."""
    made = {name: tensor(name).contiguous() for name in names}
    try:
        safetensors.torch.save_file(made, str(file), metadata={"format": "pt"})
    except SafetensorError as error:  # as where the disk is full
        raise ConfigError(f"'{file}' cannot be written: {error}") from error


def _replace_dtype(config: dict[str, Any], dtype: str) -> None:
    for key, value in config.items():
        if key in ("dtype", "torch_dtype"):
            config[key] = dtype
        elif isinstance(value, dict):
            _replace_dtype(cast("dict[str, Any]", value), dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _files(folder: Path) -> list[Path]:
    """The files of the weights, those of an index where there is one: others may lie about."""
    for pattern in ("model*.safetensors", "pytorch_model*.bin"):
        for index in sorted(folder.glob(pattern + ".index.json")):
            names: set[str] = set(read_json(index).get("weight_map", {}).values())
            if missing := [name for name in sorted(names) if not (folder / name).is_file()]:
                raise ConfigError(f"'{folder}' lacks '{missing[0]}', which '{index.name}' names")
            return [folder / name for name in sorted(names)]
        if files := sorted(folder.glob(pattern)):
            return files
    raise ConfigError(f"'{folder}' holds no weights: neither model*.safetensors nor pytorch_model*.bin")


def _of_safetensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        with cast(Any, safetensors).safe_open(file, framework="pt") as opened:
            names: list[str] = opened.keys()
            return {name: opened.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ConfigError(f"'{file}' cannot be read: {error}") from error


def _of_pickle(file: Path) -> dict[str, torch.Tensor]:
    """By torch's restricted reader, which takes tensors and refuses everything that could run code."""
    try:
        try:
            found: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # of before torch 1.6: no file to map
            found = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ConfigError(f"'{file}' cannot be read as tensors alone: {str(error).splitlines()[0]}") from error
    values: list[Any] = [*cast("dict[str, Any]", found).values()] if isinstance(found, dict) else [None]
    if not all(isinstance(value, torch.Tensor) for value in values):
        raise ConfigError(f"'{file}' holds something else than tensors")
    return cast("dict[str, torch.Tensor]", found)
