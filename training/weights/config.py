"""Settings of the commands of `mesh weights`; `__main__.py` runs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from mesh.config import ByteSize, option

ENV_PREFIX: Final = "MESH_WEIGHTS_"
Format = Literal["float32", "float16", "bfloat16"]

_SHARD: Final = ByteSize("5GB")
_MODEL_HELP: Final = "The model: a folder, or a name on the hub."
_OUTPUT_HELP: Final = "The folder to write. It must not exist, or be empty."
_SHARD_HELP: Final = "Largest file of weights; about so much memory is needed."


@dataclass(frozen=True)
class MergeConfig:
    """Add a LoRA adapter to the weights of its base model, for a model that needs no adapter."""

    adapter: str = option(help="The adapter: a folder, or a name on the hub.", metavar="DIR|NAME")
    output: Path = option(help=_OUTPUT_HELP, metavar="DIR")
    base: str | None = option(None, "The base model, if not the one that the adapter names.", metavar="DIR|NAME")
    dtype: Format | None = option(None, "Number format of the result. Default: the base model's.")
    max_shard_size: ByteSize = option(_SHARD, "Largest file of weights.", metavar="SIZE")


@dataclass(frozen=True)
class DeltaMakeConfig:
    """Write the difference of two models, of use only to those who have the first."""

    base: str = option(help="The model that others have: a folder, or a name on the hub.", metavar="DIR|NAME")
    target: str = option(help="The model that they shall get: a folder, or a name on the hub.", metavar="DIR|NAME")
    output: Path = option(help=_OUTPUT_HELP, metavar="DIR")
    dtype: Format | None = option(
        None, "Number format of the differences; float32 is the most exact. Default: the target's."
    )
    max_shard_size: ByteSize = option(_SHARD, _SHARD_HELP, metavar="SIZE")


@dataclass(frozen=True)
class DeltaApplyConfig:
    """Add a delta to the model that it was made from. Reads deltas of FastChat, too."""

    base: str = option(help="The model that the delta was made from: a folder, or a name.", metavar="DIR|NAME")
    delta: str = option(help="The delta: a folder, or a name on the hub.", metavar="DIR|NAME")
    output: Path = option(help=_OUTPUT_HELP, metavar="DIR")
    dtype: Format | None = option(None, "Number format of the result. Default: the one that the delta's config tells.")
    max_shard_size: ByteSize = option(_SHARD, _SHARD_HELP, metavar="SIZE")


@dataclass(frozen=True)
class ConvertConfig:
    """Change the number format of a model, or its files from pickles (*.bin) to safetensors."""

    model: str = option(help=_MODEL_HELP, metavar="DIR|NAME")
    output: Path = option(help=_OUTPUT_HELP, metavar="DIR")
    dtype: Format | None = option(None, "Number format of the result. Default: that of each tensor.")
    max_shard_size: ByteSize = option(_SHARD, _SHARD_HELP, metavar="SIZE")


@dataclass(frozen=True)
class ShardConfig:
    """Write the weights of a model as files of at most one size."""

    model: str = option(help=_MODEL_HELP, metavar="DIR|NAME")
    output: Path = option(help=_OUTPUT_HELP, metavar="DIR")
    max_shard_size: ByteSize = option(help=_SHARD_HELP + " For example 2GB.", metavar="SIZE")


@dataclass(frozen=True)
class PushConfig:
    """Upload a model or an adapter to the Hugging Face hub, as whoever HF_TOKEN or `hf auth login` says."""

    model: Path = option(help="Its folder.", metavar="DIR")
    repo: str = option(help="Where it goes; made if it is not there.", metavar="ORG/NAME")
    private: bool = option(False, "A repository that is made is for members only.")
    revision: str | None = option(None, "Branch to write to. Default: the main one.", metavar="BRANCH")
    message: str = option("Upload of weights", "Message of the commit.", metavar="TEXT")
    dry_run: bool = option(False, "List what would be uploaded, and ask the hub nothing.")


COMMANDS: Final[dict[str, type[Any]]] = {
    "merge": MergeConfig,
    "delta make": DeltaMakeConfig,
    "delta apply": DeltaApplyConfig,
    "convert": ConvertConfig,
    "shard": ShardConfig,
    "push": PushConfig,
}
