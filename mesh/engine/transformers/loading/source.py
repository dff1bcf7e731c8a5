"""Where a model comes from: a folder, a GGUF file, or a hub."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

import huggingface_hub
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mesh.demo import ADAPTERS, adapter_path
from mesh.errors import invalid

Hub = Literal["huggingface", "modelscope"]

_LFS: Final = b"version https://git-lfs"

_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_HUB_FILES: Final = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
# Folders whose names begin with a digit are the modules of sentence-transformers.
_HUB_DUPLICATES: Final = ["consolidated*", "original/*", "onnx/*", "[!0-9]*/*.safetensors", "*/*.bin"]


@dataclass(frozen=True, slots=True)
class Source:
    """Which files of a model to take, and from where: `name` is a folder, a GGUF file, or a name on the hub."""

    name: str
    hub: Hub = "huggingface"
    revision: str | None = None
    gguf: str | None = None
    with_code: bool = False
    allow_pickle: bool = False

    def find(self, progress: Callable[[str], None]) -> tuple[Path, str | None]:
        """The model's folder, and the name of the GGUF file in it that is meant, if one is.

        What is on the hub is downloaded if it is not there yet. Raises invalid_request in one sentence.
        """
        local = local_model(self.name, self.gguf)
        if local is not None:
            if self.revision is not None:
                text = f"'revision' cannot be '{self.revision}': it is for models of the hub, and '{self.name}' is here"
                raise invalid("revision", text)
            return local
        progress(f"looking for '{self.name}' on {_HUB_TITLES[self.hub]}")
        folder = self._download(self._patterns())
        if self.gguf is None and self.allow_pickle and not any(folder.glob("*.safetensors")):
            # Only now: repositories that have safetensors often have the same again as pickles.
            folder = self._download([*self._patterns(), "pytorch_model*.bin"])
        return _checked(folder, self.gguf)

    def _patterns(self) -> list[str]:
        if self.gguf is not None:
            return [self.gguf]
        return [*_HUB_FILES, "*.py"] if self.with_code else _HUB_FILES

    def _download(self, patterns: list[str]) -> Path:
        download = _from_huggingface if self.hub == "huggingface" else _from_modelscope
        return download(self.name, self.revision, patterns)


_HUB_TITLES: Final[dict[Hub, str]] = {"huggingface": "the hub", "modelscope": "ModelScope"}


def find_adapter(name: str, progress: Callable[[str], None]) -> Path:
    """The folder of an adapter: of ours by its name, else downloaded from the hub if there is no such folder here.

    Raises invalid_request.
    """
    path = adapter_path(name) if name in ADAPTERS else Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists() or not _HUB_NAME.fullmatch(name):
        raise invalid("path", f"there is no folder '{name}', and it is no name of an adapter on the hub")
    progress(f"looking for '{name}' on the hub")
    return _from_huggingface(name, None, _HUB_FILES)


def local_model(name: str, gguf: str | None = None) -> tuple[Path, str | None] | None:
    """The folder `name`, and the name of the GGUF file in it that is meant, if one is.

    None if `name` can only be a name on the hub; raises invalid_request if it is neither. Quick, so that a mistyped
    path need not wait for the import of torch.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _checked(path, gguf)
    if path.is_file() and path.suffix == ".gguf":
        if gguf is not None:
            raise invalid("gguf_file", f"'{name}' is a file already, so 'gguf_file' cannot be '{gguf}'")
        return path.parent, path.name
    if path.exists():
        raise invalid("path", f"'{name}' is a file: a model is a folder with config.json and weights, or a *.gguf file")
    if not _HUB_NAME.fullmatch(name):
        raise invalid("path", f"there is no folder '{name}', and it is no name of a model on the hub")
    return None


def _checked(folder: Path, gguf: str | None) -> tuple[Path, str | None]:
    if gguf is not None:
        if not (folder / gguf).is_file():
            raise invalid("gguf_file", f"'{folder}' holds no file '{gguf}'")
    elif not (folder / "config.json").is_file():
        raise invalid("path", f"'{folder}' holds no config.json: {_what_instead(folder)}")
    return folder, gguf


def _what_instead(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return "it is an adapter, to be served by '--lora NAME=FOLDER' beside its base model"
    files = sorted(file.name for file in folder.glob("*.gguf"))
    hint = f"; for '{files[0]}' give '--gguf-file {files[0]}'" if files else ""
    return f"it is not a model in Hugging Face's format{hint}"


def lfs_pointer(files: Iterable[Path]) -> str | None:
    """What to do, if one of the files is what a clone without Git LFS has in place of a large file."""
    for file in files:
        with file.open("rb") as stream:
            if stream.read(len(_LFS)) == _LFS:
                return f"'{file}' only points to the file, which Git LFS fetches: `git lfs pull` in its folder"
    return None


def _from_huggingface(name: str, revision: str | None, patterns: list[str]) -> Path:
    download: Any = cast(Any, huggingface_hub).snapshot_download
    try:
        return Path(
            cast(
                str,
                download(name, revision=revision, allow_patterns=patterns, ignore_patterns=_HUB_DUPLICATES),
            )
        )
    except GatedRepoError as error:
        reason = "it is gated: ask for access on the hub and set HF_TOKEN"
        cause: Exception = error
    except RevisionNotFoundError as error:
        reason, cause = f"it has no revision '{revision}'", error
    except (RepositoryNotFoundError, HFValidationError) as error:
        reason, cause = "there is neither such a folder nor anything of that name on the hub", error
    except LocalEntryNotFoundError as error:
        why = " (HF_HUB_OFFLINE is set)" if HF_HUB_OFFLINE else ""
        reason = f"there is no such folder, and the hub cannot be reached{why}; with a network `hf download` fetches it"
        cause = error
    except (HfHubHTTPError, OSError) as error:
        reason, cause = f"the download failed ({type(error).__name__})", error
    raise invalid("path", f"'{name}' cannot be loaded: {reason}") from cause


def _from_modelscope(name: str, revision: str | None, patterns: list[str]) -> Path:
    try:
        modelscope: Any = importlib.import_module("modelscope")
    except ModuleNotFoundError:
        text = f"'{name}' cannot be loaded: ModelScope needs the package 'modelscope': pip install modelscope"
        raise invalid("hub", text) from None
    # Its errors come from several packages; all that they tell goes into the sentence.
    try:
        found: str = modelscope.snapshot_download(
            name, revision=revision, allow_patterns=patterns, ignore_patterns=_HUB_DUPLICATES
        )
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise invalid("path", f"'{name}' cannot be loaded from ModelScope: {reason}") from error
    return Path(found)
