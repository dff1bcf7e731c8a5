"""Models and adapters to the Hugging Face hub, by its own library."""

from __future__ import annotations

from fnmatch import fnmatch
from http.client import UNAUTHORIZED
from pathlib import Path
from typing import Final, cast

import huggingface_hub
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from mesh.config import ConfigError
from mesh.counted import counted
from training.weights.config import PushConfig
from training.weights.folders import beside

_UNKNOWN: Final = "the hub must know who you are: set HF_TOKEN, or run `hf auth login`"
# Of the HTTP client that the hub's library has at the time: httpx, httpx2.
_HttpError: Final = cast("type[Exception]", HfHubHTTPError.__bases__[0])
_WEIGHTS: Final = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.bin.index.json")


def push(config: PushConfig) -> list[str]:
    """Upload a folder in one commit, or list what would be. Returns lines for people."""
    files = contents(config.model)
    size = sum((config.model / file).stat().st_size for file in files)
    lines = [f"{(config.model / file).stat().st_size:>14,}  {file}" for file in files]
    total = f"{counted(len(files), 'file')}, {size:,} bytes"
    if config.dry_run:
        return [*lines, f"{total} would go to {config.repo}"]
    try:
        where = _upload(config, files)
    except HFValidationError as error:
        raise ConfigError(f"--repo: {error}") from error
    except LocalTokenNotFoundError as error:
        raise ConfigError(_UNKNOWN) from error
    except HfHubHTTPError as error:
        if error.response.status_code == UNAUTHORIZED:
            raise ConfigError(_UNKNOWN) from error
        raise ConfigError(_refused(error)) from error
    except _HttpError as error:
        raise ConfigError(f"the hub at {ENDPOINT} cannot be reached: {error}") from error
    except OSError as error:
        raise ConfigError(_refused(error)) from error
    return [*lines, f"{total} went to {where}"]


def _refused(error: OSError) -> str:
    return f"the hub did not take it: {' '.join(str(error).split())[:300]}"


def contents(folder: Path) -> list[str]:
    """What belongs to the model: weights, and what `beside` gives. No optimizer, no checkpoints.

    Raises ConfigError if it is neither a model nor an adapter, or holds no weights.
    """
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ConfigError(f"'{folder}' is neither a model nor an adapter: no config.json, no adapter_config.json")
    weights = [file for file in folder.iterdir() if any(fnmatch(file.name, pattern) for pattern in _WEIGHTS)]
    if not weights:
        raise ConfigError(f"'{folder}' holds no weights")
    return sorted(str(file.relative_to(folder)) for file in {*weights, *beside(folder)})


def _upload(config: PushConfig, files: list[str]) -> str:
    hub = huggingface_hub.HfApi(library_name="inference-mesh")
    hub.create_repo(config.repo, private=config.private, exist_ok=True)
    if config.revision is not None:
        hub.create_branch(config.repo, branch=config.revision, exist_ok=True)
    commit = hub.upload_folder(
        repo_id=config.repo,
        folder_path=config.model,
        allow_patterns=files,
        revision=config.revision,
        commit_message=config.message,
    )
    return str(commit)
