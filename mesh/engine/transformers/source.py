"""Where a model comes from: a folder, or the hub."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mesh.errors import invalid

_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_HUB_FILES: Final = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_HUB_DUPLICATES: Final = ["consolidated*", "original/*", "onnx/*", "*/*.safetensors"]


def find_folder(name: str, *, revision: str | None, with_code: bool, progress: Callable[[str], None]) -> Path:
    """The folder `name`, else a local copy of the model `name` on the hub, downloaded if it is not there yet.

    `with_code` also takes the Python files of models that bring their own. Raises invalid_request in one sentence.
    """
    folder = local_folder(name)
    if folder is None:
        progress(f"looking for '{name}' on the hub")
        folder = _download(name, revision, [*_HUB_FILES, "*.py"] if with_code else _HUB_FILES)
    return _with_config(folder)


def local_folder(name: str) -> Path | None:
    """The folder `name`, None if it can only be a name on the hub; raises invalid_request if it is neither.

    Quick, so that a mistyped path need not wait for the import of torch.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _with_config(path)
    if path.exists():
        raise invalid("path", f"'{name}' is a file: a model is a folder with config.json and weights")
    if not _HUB_NAME.fullmatch(name):
        raise invalid("path", f"there is no folder '{name}', and it is no name of a model on the hub")
    return None


def _with_config(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise invalid("path", f"'{folder}' holds no config.json: it is not a model in Hugging Face's format")
    return folder


def _download(name: str, revision: str | None, patterns: list[str]) -> Path:
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
        reason, cause = "there is neither such a folder nor such a model on the hub", error
    except LocalEntryNotFoundError as error:
        reason, cause = "there is no such folder, and the hub cannot be reached", error
    except (HfHubHTTPError, OSError) as error:
        reason, cause = f"the download failed ({type(error).__name__})", error
    raise invalid("path", f"'{name}' cannot be loaded: {reason}") from cause
