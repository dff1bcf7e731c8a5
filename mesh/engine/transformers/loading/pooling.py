"""From hidden states to one vector for each text: what sentence-transformers' files say comes after the model.

`modules.json` lists the modules: the transformer itself, then pooling, linear layers and normalization, each with a
folder of its own. A model without the file has one vector taken as `default_pooling` says, of length 1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

import safetensors.torch
import torch
from torch import nn

from mesh.errors import invalid

Pooling = Literal["mean", "cls", "last", "max", "weighted_mean", "mean_sqrt_len"]

# By the names in pooling's config.json, where each may also stand as "pooling_mode_<old name>": true.
_MODES: Final[dict[str, Pooling]] = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
_OLD_NAMES: Final = {
    "cls": "cls_token",
    "max": "max_tokens",
    "mean": "mean_tokens",
    "weightedmean": "weightedmean_tokens",
}
_ACTIVATIONS: Final[dict[str, Callable[[], nn.Module]]] = {"Tanh": nn.Tanh, "Identity": nn.Identity}


@dataclass(frozen=True)
class Pipeline:
    """What follows the model. `normalizes` says whether vectors get length 1; `most_tokens` is the longest input that
    the model was made for, None for the model's own limit; texts are put in lower case with `lower_case`. `identity`
    differs between pipelines that give different vectors."""

    pooling: Pooling
    dense: tuple[nn.Module, ...] = ()
    normalizes: bool = True
    most_tokens: int | None = None
    lower_case: bool = False

    def apply(self, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Hidden states [rows, tokens, size] of rows with `lengths` [rows] tokens, padded at the right -> float32
        [rows, vector size], not yet normalized."""
        vectors = pool(self.pooling, hidden, lengths)
        for layer in self.dense:
            vectors = layer(vectors)
        return vectors

    @property
    def identity(self) -> str:
        """A hash of everything that vectors depend on here."""
        digest = hashlib.sha256(repr((self.pooling, self.normalizes, self.most_tokens, self.lower_case)).encode())
        for layer in self.dense:
            digest.update(repr(layer).encode())
            for parameter in layer.parameters():
                digest.update(parameter.detach().cpu().numpy().tobytes())
        return digest.hexdigest()


def pool(pooling: Pooling, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """One float32 vector [rows, size] for each row of hidden states [rows, tokens, size], padded at the right."""
    hidden = hidden.float()
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        return hidden[torch.arange(len(lengths), device=hidden.device), lengths - 1]
    places = torch.arange(hidden.shape[1], device=hidden.device)
    real = places[None, :] < lengths[:, None]
    # Filled, not multiplied: what a model makes of padding may be no number.
    if pooling == "max":
        return hidden.masked_fill(~real[:, :, None], float("-inf")).amax(dim=1)
    hidden = hidden.masked_fill(~real[:, :, None], 0)
    if pooling == "weighted_mean":
        weights = (places + 1) * real
        return (hidden * weights[:, :, None]).sum(dim=1) / weights.sum(dim=1, keepdim=True)
    counts = lengths[:, None].float()
    return hidden.sum(dim=1) / (counts.sqrt() if pooling == "mean_sqrt_len" else counts)


def read_pipeline(folder: Path, given: Pooling | None, default_pooling: Pooling) -> Pipeline:
    """The pipeline of a model's folder, with the pooling `given` instead of its own. Raises invalid_request."""
    listing = folder / "modules.json"
    if not listing.is_file():
        return Pipeline(given or default_pooling)
    pooling, dense, normalizes = given, list[nn.Module](), False
    modules: list[Any] = _read(listing, list)
    for module in modules:
        kind, place = str(module.get("type", "")), folder / str(module.get("path", ""))
        name = kind.rsplit(".", 1)[-1] if kind.startswith("sentence_transformers.") else kind
        if normalizes:
            raise invalid("path", f"'{listing}' has '{kind}' after the normalization, which is not supported")
        match name:
            case "Transformer":
                pass
            case "Pooling":
                pooling = given or _pooling(place / "config.json")
            case "Dense":
                dense.append(_dense(place))
            case "Normalize":
                normalizes = True
            case _:
                raise invalid("path", f"'{listing}' names a module of type '{kind}', which is not supported")
    return Pipeline(pooling or default_pooling, tuple(dense), normalizes, *_limits(folder))


def _limits(folder: Path) -> tuple[int | None, bool]:
    """The longest input, and whether texts are put in lower case."""
    for file in sorted(folder.glob("sentence_*_config.json")):
        config: dict[str, Any] = _read(file, dict)
        most = config.get("max_seq_length")
        return most if isinstance(most, int) and most > 0 else None, bool(config.get("do_lower_case"))
    return None, False


def _pooling(file: Path) -> Pooling:
    config: dict[str, Any] = _read(file, dict)
    given = config.get("pooling_mode")
    if given is None:
        old = {name: f"pooling_mode_{_OLD_NAMES.get(name, name)}" for name in _MODES}
        given = [name for name, key in old.items() if config.get(key)] or "mean"
    names = cast("list[Any]", given) if isinstance(given, list) else [given]
    if len(names) != 1 or names[0] not in _MODES:
        shown = ", ".join(map(str, names))
        raise invalid("path", f"'{file}' asks for the pooling {shown}, which is not supported: give one by --pooling")
    return _MODES[names[0]]


def _dense(folder: Path) -> nn.Module:
    """A linear layer and its activation, in float32."""
    config: dict[str, Any] = _read(folder / "config.json", dict)
    activation = str(config.get("activation_function") or "torch.nn.modules.activation.Tanh").rsplit(".", 1)[-1]
    if activation not in _ACTIVATIONS:
        raise invalid("path", f"'{folder}' asks for the activation '{activation}', which is not supported")
    file = folder / "model.safetensors"
    if not file.is_file():
        raise invalid("path", f"'{folder}' holds no model.safetensors")
    loaded: dict[str, torch.Tensor] = cast("Any", safetensors.torch).load_file(file)
    tensors = {name.removeprefix("linear."): tensor.float() for name, tensor in loaded.items()}
    try:
        layer = nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
        layer.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise invalid("path", f"the linear layer in '{folder}' cannot be used: {error}") from None
    return nn.Sequential(layer, _ACTIVATIONS[activation]()).requires_grad_(False)


def _read(file: Path, kind: type[Any]) -> Any:
    try:
        found: object = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise invalid("path", f"'{file}' cannot be read: {error}") from None
    if not isinstance(found, kind):
        raise invalid("path", f"'{file}' is not a JSON {'object' if kind is dict else 'list'}")
    return found
