"""What makes two workers give equal answers, as one hash; and the facts that weight files tell without being loaded."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

# Weight files up to this size are hashed whole.
_WHOLE: Final = 64 * 2**20
# Of larger ones: this many pieces of this size, evenly spaced (16 MiB a file, so that 100 files take seconds).
_PIECES: Final = 256
_PIECE: Final = 64 * 2**10

# Settings of the configuration that say where a model came from or how it was saved, not what it answers.
_INCIDENTAL: Final = ("_name_or_path", "name_or_path", "transformers_version", "_commit_hash", "torch_dtype", "dtype")
_TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)


class WeightFileError(ValueError):
    """A weight file that cannot be read; the message is one sentence."""


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder: those of its index, else all of them."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        single = folder / "model.safetensors"
        return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightFileError(f"'{index}' is not an index of weight files") from error
    files = [folder / name for name in sorted(names)]
    for file in files:
        if not file.is_file():
            raise WeightFileError(f"'{file}' is missing, which '{index.name}' names")
    return files


def read_header(file: Path) -> dict[str, Any]:
    """The description of the tensors in a safetensors file. Raises WeightFileError unless the file is whole.

    Format: https://github.com/huggingface/safetensors: 8 bytes of header length, the header in JSON, the data.
    """
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > 100_000_000 or length == 0:
            raise WeightFileError(f"'{file}' is not a safetensors file")
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
            tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
            end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightFileError(f"'{file}' is not a safetensors file") from error
    size = file.stat().st_size
    if size != 8 + length + end:
        raise WeightFileError(f"'{file}' is damaged: it has {size} bytes and should have {8 + length + end}")
    return tensors


def count_parameters(files: list[Path]) -> int:
    """Numbers in the weight files, tied ones counted as they are stored."""
    return sum(math.prod(tensor["shape"]) for file in files for tensor in read_header(file).values())


def fingerprint(folder: Path, config: dict[str, Any], chat_template: object, dtype: str) -> str:
    """32 hex digits over configuration (with its quantisation), tokenizer files, chat template, number format, weights.

    Weight files over 64 MiB count by name, size, header and 256 pieces of 64 KiB; smaller ones by every byte.
    """
    digest = hashlib.sha256()
    for part in _parts(folder, config, chat_template, dtype):
        # Lengths keep the border between parts where it is.
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:32]


def _parts(folder: Path, config: dict[str, Any], chat_template: object, dtype: str) -> Iterator[bytes]:
    kept = {key: value for key, value in config.items() if key not in _INCIDENTAL}
    yield json.dumps(kept, sort_keys=True, default=str).encode()
    yield json.dumps(chat_template, sort_keys=True, default=str).encode()
    yield dtype.encode()
    for name in (*_TOKENIZER_FILES, "generation_config.json"):
        file = folder / name
        if file.is_file():
            yield name.encode()
            yield file.read_bytes()
    for file in weight_files(folder):
        yield file.name.encode()
        yield from _weight_parts(file)


def _weight_parts(file: Path) -> Iterator[bytes]:
    size = file.stat().st_size
    yield size.to_bytes(8, "little")
    with file.open("rb") as stream:
        if size <= _WHOLE:
            while chunk := stream.read(2**20):
                yield chunk
            return
        length = int.from_bytes(stream.read(8), "little")
        yield stream.read(length)
        start = 8 + length
        for piece in range(_PIECES):
            stream.seek(start + (size - start - _PIECE) * piece // (_PIECES - 1))
            yield stream.read(_PIECE)
