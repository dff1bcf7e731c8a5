"""What makes two workers give equal answers, as one hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from mesh.engine.transformers.loading.checkpoint import Checkpoint

# Weight files up to this size are hashed whole.
_WHOLE: Final = 64 * 2**20
# Of larger ones: this many pieces of this size, evenly spaced (16 MiB a file, so that 100 files take seconds).
_PIECES: Final = 256
_PIECE: Final = 64 * 2**10

# Settings of the configuration that say where a model came from, how it was saved or is spread, not what it answers.
_INCIDENTAL: Final = (
    "_name_or_path",
    "name_or_path",
    "transformers_version",
    "_commit_hash",
    "torch_dtype",
    "dtype",
    "distributed_config",
)
TOKENIZER_FILES: Final = (
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
_PROCESSOR_FILES: Final = ("processor_config.json", "preprocessor_config.json")


def fingerprint(checkpoint: Checkpoint, config: dict[str, Any], chat_template: object, number_format: str) -> str:
    """32 hex digits over configuration (with its quantization), files of tokenizer and processor, chat template, number
    format, weights.

    `number_format` is the type of the weights as they are computed with, and how they were quantized when loaded; the
    device is no part of it. Weight files over 64 MiB count by name, size, header and 256 pieces of 64 KiB; smaller
    ones by every byte.
    """
    return hash_parts(_parts(checkpoint, config, chat_template, number_format))


def hash_parts(parts: Iterable[bytes]) -> str:
    """32 hex digits over a sequence of byte strings and the borders between them."""
    digest = hashlib.sha256()
    for part in parts:
        # Lengths keep the border between parts where it is.
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:32]


def _parts(
    checkpoint: Checkpoint, config: dict[str, Any], chat_template: object, number_format: str
) -> Iterator[bytes]:
    kept = {key: value for key, value in config.items() if key not in _INCIDENTAL}
    yield json.dumps(kept, sort_keys=True, default=str).encode()
    yield json.dumps(chat_template, sort_keys=True, default=str).encode()
    yield number_format.encode()
    # A GGUF file brings its own tokenizer: files beside it are not read.
    for name in () if checkpoint.kind == "gguf" else (*TOKENIZER_FILES, *_PROCESSOR_FILES, "generation_config.json"):
        file = checkpoint.folder / name
        if file.is_file():
            yield name.encode()
            yield file.read_bytes()
    for file in checkpoint.files:
        yield file.name.encode()
        yield from weight_parts(file, header=checkpoint.kind == "safetensors")


def weight_parts(file: Path, *, header: bool) -> Iterator[bytes]:
    """Size and content of a weight file: whole up to 64 MiB, else its header, if it has one, and samples."""
    size = file.stat().st_size
    yield size.to_bytes(8, "little")
    with file.open("rb") as stream:
        if size <= _WHOLE:
            while chunk := stream.read(2**20):
                yield chunk
            return
        start = 0
        if header:
            length = int.from_bytes(stream.read(8), "little")
            yield stream.read(length)
            start = 8 + length
        for piece in range(_PIECES):
            stream.seek(start + (size - start - _PIECE) * piece // (_PIECES - 1))
            yield stream.read(_PIECE)
