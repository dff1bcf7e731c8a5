"""From an adapter's folder, as PEFT saves it, to an Adapter that fits the served model, or one sentence why not.

Runs beside the engine's thread: it reads, checks and copies, and touches nothing that a step uses.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import safetensors.torch
import torch
from safetensors import SafetensorError

from mesh.engine.transformers.loading.fingerprint import hash_parts, weight_parts
from mesh.engine.transformers.lora.config import LoraConfig, read_config
from mesh.engine.transformers.lora.hooks import Adapter, LoraLayer, Place
from mesh.engine.transformers.memory import free_memory
from mesh.errors import ErrorKind, MeshError, invalid, unsupported
from mesh.log import kv

log = logging.getLogger(__name__)

_WEIGHTS: Final = "adapter_model.safetensors"
_TENSOR: Final = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<part>[AB])(\.default)?\.weight")
# A layer's A and B; one that is missing is None.
Pair = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Base:
    """What an adapter is checked against: the model that it changes, and where its numbers go."""

    name: str
    path: str
    fingerprint: str
    places: Mapping[str, Place]
    vocabulary: Callable[[], Mapping[str, int]]
    dtype: torch.dtype
    device: torch.device


def read_adapter(name: str, folder: Path, base: Base) -> Adapter:
    """Load an adapter for `base`, to serve it as `name`. Blocks; reads files and copies to the device.

    Raises invalid_request or unsupported naming the file and what is wrong with it.
    """
    config = read_config(folder)
    file = folder / _WEIGHTS
    _warn_of_another_base(folder, config, base)
    _check_tokenizer(folder, base)
    template = _chat_template(folder)
    if template is not None:
        log.info("the adapter brings a chat template, which is used for it", extra=kv(adapter=name))
    pairs = _pairs(file)
    layers = {layer: _checked(file, layer, pair, config, base) for layer, pair in pairs.items()}
    _check_targets(folder, config, layers.keys(), base)
    _check_memory(file, sum(a.numel() + b.numel() for a, b in layers.values()) * base.dtype.itemsize, base)
    placed = {layer: _placed(*matrices, config.scaling(layer), base, layer) for layer, matrices in layers.items()}
    return Adapter(name, _fingerprint(file, config, template, base), placed, template)


def _pairs(file: Path) -> dict[str, Pair]:
    """The matrices of each layer."""
    if not file.is_file():
        other = "; pickled weights are not loaded" if file.with_suffix(".bin").is_file() else ""
        raise invalid("path", f"'{file.parent}' holds no {file.name}{other}")
    try:
        tensors = safetensors.torch.load_file(file)
    except (SafetensorError, OSError) as error:
        raise invalid("path", f"'{file}' cannot be read: {error}") from None
    pairs: dict[str, Pair] = {}
    for key, tensor in tensors.items():
        found = _TENSOR.fullmatch(key)
        if found is None:
            raise unsupported("path", f"'{file}' holds '{key}': only LoRA weights of linear layers are served")
        pairs.setdefault(found["layer"], {})[found["part"]] = tensor
    return pairs


def _checked(file: Path, layer: str, pair: Pair, config: LoraConfig, base: Base) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B of a layer, if they fit."""
    place, rank = base.places.get(layer), config.rank(layer)
    if place is None:
        raise invalid("path", f"'{file}' changes '{layer}', which is no linear layer of model '{base.name}'")
    if not place.adaptable:
        raise unsupported("path", f"'{file}' changes '{layer}', which is not computed exactly once for each token")
    for part, shape in (("A", (rank, place.in_features)), ("B", (place.out_features, rank))):
        tensor = pair.get(part)
        if tensor is None:
            raise invalid("path", f"'{file}' has no lora_{part} of '{layer}'")
        if tuple(tensor.shape) != shape:
            raise invalid(
                "path",
                f"lora_{part} of '{layer}' in '{file}' is {_times(tensor.shape)}, and model '{base.name}' with rank "
                f"{rank} needs {_times(shape)}",
            )
        if not torch.isfinite(tensor).all():
            raise invalid("path", f"lora_{part} of '{layer}' in '{file}' holds numbers that are not finite")
    return pair["A"], pair["B"]


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _check_targets(folder: Path, config: LoraConfig, present: Iterable[str], base: Base) -> None:
    """The configuration and the weights must speak of the same layers."""
    meant = {layer for layer in base.places if config.changes(layer)}
    have = set(present)
    if not meant:
        raise invalid("path", f"'{folder}' is for layers that model '{base.name}' does not have: another base model's?")
    if missing := sorted(meant - have):
        raise invalid("path", f"'{folder}' targets {len(missing)} layers without weights, such as '{missing[0]}'")
    if extra := sorted(have - meant):
        raise invalid("path", f"'{folder}' has weights of '{extra[0]}', which its configuration does not target")


def _warn_of_another_base(folder: Path, config: LoraConfig, base: Base) -> None:
    """A name proves nothing, as folders are called anything: shapes and layers are what is checked."""
    given = config.base_model_name_or_path
    if given and Path(given).name not in (Path(base.path).name, base.name):
        log.warning(
            "the adapter was made for a model of another name",
            extra=kv(adapter=str(folder), made_for=given, base=base.path),
        )


def _check_memory(file: Path, need: int, base: Base) -> None:
    free = free_memory(base.device)
    if need > free:
        raise MeshError(
            ErrorKind.OVERLOADED,
            f"'{file}' needs {need / 1e6:.0f} MB on {base.device}, where {free / 1e6:.0f} MB are free: unload an "
            "adapter, or give the KV cache less",
        )


def _placed(a: torch.Tensor, b: torch.Tensor, scaling: float, base: Base, layer: str) -> LoraLayer:
    down, up = a.t(), b.t().float() * scaling
    device = base.places[layer].device or base.device
    # Copies, as what was read may still be a view of the file.
    matrices = (matrix.to(device, base.dtype) for matrix in (down, up))
    return LoraLayer(*(matrix.clone(memory_format=torch.contiguous_format) for matrix in matrices))


def _fingerprint(file: Path, config: LoraConfig, template: str | None, base: Base) -> str:
    """Base model, ranks and scales, weights, and how chats are rendered."""
    settings = (config.r, config.lora_alpha, config.use_rslora, config.rank_pattern, config.alpha_pattern, template)

    def parts() -> Iterator[bytes]:
        yield base.fingerprint.encode()
        yield json.dumps(settings, sort_keys=True).encode()
        yield from weight_parts(file, header=True)

    return hash_parts(parts())


# The adapter's tokenizer


def _check_tokenizer(folder: Path, base: Base) -> None:
    """Training tools save the base model's tokenizer beside the adapter; one that was extended cannot be served."""
    try:
        own = list(_own_tokens(folder))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise invalid("path", f"'{folder}' holds a tokenizer whose files cannot be understood") from None
    vocabulary: Mapping[str, int] = base.vocabulary() if own else {}
    for token, token_id in own:
        if vocabulary.get(token) != token_id:
            raise unsupported(
                "path",
                f"'{folder}' brings a tokenizer in which {token!r} is token {token_id}, unlike that of model "
                f"'{base.name}': adapters with tokens of their own are not served",
            )


def _own_tokens(folder: Path) -> Iterator[tuple[str, int]]:
    """All tokens that the folder's tokenizer files tell without being loaded."""
    tokenizer = _json(folder / "tokenizer.json")
    yield from ((token["content"], token["id"]) for token in tokenizer.get("added_tokens") or ())
    model: dict[str, Any] = tokenizer.get("model") or {}
    vocabulary: dict[str, int] | list[Any] = model.get("vocab") or {}
    if isinstance(vocabulary, dict):
        yield from vocabulary.items()
    else:
        yield from ((piece[0], place) for place, piece in enumerate(vocabulary))
    yield from _json(folder / "added_tokens.json").items()
    added: dict[str, Any] = _json(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
    yield from ((token["content"], int(token_id)) for token_id, token in added.items())


def _chat_template(folder: Path) -> str | None:
    """The template that the adapter was trained with, if its folder has one."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    given: Any = _json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(given, list):
        named = {entry["name"]: entry["template"] for entry in cast("list[dict[str, str]]", given)}
        return named.get("default")
    return given if isinstance(given, str) else None


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content: Any = json.loads(file.read_bytes())
    except ValueError as error:
        raise invalid("path", f"'{file}' is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise invalid("path", f"'{file}' is not a JSON object")
    return cast("dict[str, Any]", content)
