"""Folders of models: where they come from, what belongs to one besides its weights, and how a new one is written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from mesh.config import ConfigError
from mesh.demo import ADAPTERS, MODELS, adapter_path, model_path

_WEIGHTS: Final = (
    "*.safetensors",
    "*.bin",
    "*.index.json",
    "*.pt",
    "*.pth",
    "*.gguf",
    "*.h5",
    "*.msgpack",
    "*.onnx",
    "*.ot",
)
# What trainers leave beside a checkpoint, and what tells of the old weights alone.
_LEFT_OVERS: Final = ("trainer_state.json", "all_results.json", "train_results.json", "eval_results.json", "delta.json")
_HUB_FILES: Final = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.py", "*.md", "LICENSE*"]
_HUB_DUPLICATES: Final = ["consolidated*", "original/*", "onnx/*"]


def find(name: str, marker: str = "config.json") -> Path:
    """The folder `name`, one of the demonstration models, or the hub's repository, downloaded if it is not there yet.

    Raises ConfigError if there is none or it lacks the file `marker`.
    """
    folder = model_path(name) if name in MODELS else adapter_path(name) if name in ADAPTERS else Path(name).expanduser()
    if not folder.is_dir():
        if folder.exists() or name.count("/") > 1:
            raise ConfigError(f"there is no folder '{name}'")
        folder = _download(name)
    if not (folder / marker).is_file():
        raise ConfigError(f"'{folder}' holds no {marker}")
    return folder


def read_json(file: Path) -> dict[str, Any]:
    """The object in a file. Raises ConfigError."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"'{file}' is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"'{file}' holds no JSON object")
    return cast("dict[str, Any]", found)


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write an object as transformers does."""
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def written(output: Path) -> Generator[Path]:
    """A folder beside `output` that takes its place when all is written: a kill leaves no half model.

    Raises ConfigError if `output` holds something.
    """
    output = output.expanduser().absolute()
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ConfigError(f"--output '{output}' exists and is no empty folder")
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of one that was killed
    partial.mkdir(parents=True)
    try:
        yield partial
        make_readable(partial)
        os.replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def copy_beside(source: Path, target: Path) -> None:
    """Copy what belongs to a model besides its weights: configuration, tokenizer, templates, its code, its card."""
    for file in beside(source):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)


def beside(folder: Path) -> Iterator[Path]:
    """The files of a model that hold no weights; of its folders those that hold no weights either."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in _LEFT_OVERS or path.name.startswith("checkpoint-"):
            continue
        if path.is_file() and not _holds_weights(path):
            yield path
        elif path.is_dir():
            inside = [file for file in sorted(path.rglob("*")) if file.is_file()]
            if not any(map(_holds_weights, inside)):
                yield from inside


def _holds_weights(file: Path) -> bool:
    return any(file.match(pattern) for pattern in _WEIGHTS)


def make_readable(folder: Path) -> None:
    """Give all files the usual mode: safetensors writes them for their owner alone, and workers are other users."""
    mask = os.umask(0)
    os.umask(mask)
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o666 & ~mask)


def _download(name: str) -> Path:
    download: Any = cast(Any, huggingface_hub).snapshot_download
    try:
        folder = Path(download(name, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_DUPLICATES))
        if not any(folder.glob("*.safetensors")):
            # Only now: repositories that have safetensors often have the same again as pickles.
            folder = Path(download(name, allow_patterns=[*_HUB_FILES, "*.bin"], ignore_patterns=_HUB_DUPLICATES))
    except LocalEntryNotFoundError as error:
        raise ConfigError(f"there is no folder '{name}', and the hub cannot be reached") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"there is no folder '{name}', and the hub does not give it: {reason}") from error
    return folder
