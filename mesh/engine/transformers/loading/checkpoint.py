"""The weight files of a model, and what they tell without being loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

import torch

from mesh.engine.transformers.loading.source import lfs_pointer
from mesh.errors import invalid

_AGAIN: Final = "; copy or download it again"


class WeightFileError(ValueError):
    """A weight file that cannot be read; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`files` in `folder`, in one of three formats: safetensors, torch's own (pickled), or one GGUF file."""

    folder: Path
    kind: Literal["safetensors", "pickle", "gguf"]
    files: list[Path]

    @property
    def bytes(self) -> int:
        """Size of the files."""
        return sum(file.stat().st_size for file in self.files)

    def tensors(self) -> Iterator[tuple[int, int]]:
        """Numbers and bytes of each tensor as it is stored. Raises WeightFileError unless the files are whole."""
        for file in self.files:
            match self.kind:
                case "safetensors":
                    yield from _safetensors_sizes(file)
                case "pickle":
                    yield from _pickle_sizes(file)
                case "gguf":
                    yield from _gguf_sizes(file)


def find_checkpoint(folder: Path, *, gguf: str | None, allow_pickle: bool) -> Checkpoint:
    """The weight files of a model folder: the GGUF file of that name, else safetensors, else pickles where allowed.

    Raises invalid_request when there are none, or when one is damaged.
    """
    try:
        checkpoint = _find(folder, gguf, allow_pickle)
        if checkpoint is not None:
            for _ in checkpoint.tensors():
                pass
            return checkpoint
    except WeightFileError as error:
        raise invalid("path", str(error)) from error
    others = [file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.gguf") for file in sorted(folder.glob(pattern))]
    hint = ""
    if any(name.endswith(".gguf") for name in others):
        hint = f"; for '{others[-1]}' give '--gguf-file {others[-1]}'"
    elif others and not allow_pickle:
        hint = "; pickled weights are loaded only with '--allow-pickle'"
    kinds = "*.safetensors, pytorch_model*.bin" if allow_pickle else "*.safetensors"
    raise invalid("path", f"'{folder}' holds no weights ({kinds}){hint}")


def _find(folder: Path, gguf: str | None, allow_pickle: bool) -> Checkpoint | None:
    if gguf is not None:
        if not (folder / gguf).is_file():
            raise WeightFileError(f"there is no file '{gguf}' in '{folder}'")
        return Checkpoint(folder, "gguf", [folder / gguf])
    if files := weight_files(folder, "model.safetensors", "*.safetensors"):
        return Checkpoint(folder, "safetensors", files)
    if allow_pickle and (files := weight_files(folder, "pytorch_model.bin", "pytorch_model*.bin")):
        return Checkpoint(folder, "pickle", files)
    return None


def weight_files(folder: Path, name: str, pattern: str) -> list[Path]:
    """The files that the index of `name` lists, else the file `name`, else all files that match `pattern`."""
    index = folder / f"{name}.index.json"
    if not index.is_file():
        single = folder / name
        return [single] if single.is_file() else sorted(folder.glob(pattern))
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightFileError(f"'{index}' is not an index of weight files") from error
    files = [folder / file for file in sorted(names)]
    for file in files:
        if not file.is_file():
            raise WeightFileError(f"'{file}' is missing, which '{index.name}' names{_AGAIN}")
    return files


def _safetensors_sizes(file: Path) -> Iterator[tuple[int, int]]:
    """Format: https://github.com/huggingface/safetensors: 8 bytes of header length, the header in JSON, the data."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > 100_000_000 or length == 0:
            raise WeightFileError(lfs_pointer([file]) or f"'{file}' is not a safetensors file")
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
            tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
            sizes = [(math.prod(tensor["shape"]), tensor["data_offsets"]) for tensor in tensors]
            end = max((offsets[1] for _, offsets in sizes), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise WeightFileError(f"'{file}' is not a safetensors file") from error
    size = file.stat().st_size
    if size != 8 + length + end:
        raise WeightFileError(f"'{file}' is damaged: it has {size} bytes and should have {8 + length + end}{_AGAIN}")
    for numbers, offsets in sizes:
        yield numbers, offsets[1] - offsets[0]


def _pickle_sizes(file: Path) -> Iterator[tuple[int, int]]:
    # On the meta device nothing but the description is read; weights_only runs no code of the file.
    try:
        loaded: object = cast(Any, torch).load(file, map_location="meta", weights_only=True)
    except Exception as error:  # torch has no one type for what is damaged and what is forbidden
        raise WeightFileError(f"'{file}' is damaged, or holds more than tensors, which could run code") from error
    if not isinstance(loaded, dict):
        raise WeightFileError(f"'{file}' does not hold tensors by name")
    for value in cast("dict[object, object]", loaded).values():
        if isinstance(value, torch.Tensor):
            yield value.numel(), value.numel() * value.element_size()


def _gguf_sizes(file: Path) -> Iterator[tuple[int, int]]:
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError:
        raise WeightFileError("GGUF files need the package 'gguf': pip install 'inference-mesh[gguf]'") from None
    try:
        tensors = cast("list[Any]", GGUFReader(file).tensors)
    except Exception as error:  # the reader has no one type for a damaged file
        raise WeightFileError(f"'{file}' is not a GGUF file, or damaged") from error
    for tensor in tensors:
        yield int(tensor.n_elements), int(tensor.n_bytes)
