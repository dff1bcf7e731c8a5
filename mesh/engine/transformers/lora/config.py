"""What an adapter's `adapter_config.json` says, in PEFT's format: which layers it changes, by which ranks and scales.

Only plain LoRA is served. Every other setting of PEFT that would change an answer is refused by name, also one that
this version does not know: it is refused unless it is empty.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from mesh.errors import MeshError, invalid, unsupported

Number = TypeVar("Number", int, float)

CONFIG_FILE: Final = "adapter_config.json"

# Of no effect on answers: where the adapter comes from, how it was trained and begun, and how the base model's weights
# are stored (`fan_in_fan_out`), which does not matter to what is added to a layer's output.
_INERT: Final = frozenset(
    (
        *("auto_mapping", "inference_mode", "revision", "peft_version", "lora_dropout", "fan_in_fan_out"),
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size", "megatron_core"),
        *("runtime_config", "ensure_weight_tying"),
    )
)
# Ways to begin the training that leave the base model's weights as they are. The others change them, so that the saved
# adapter belongs to weights which nobody has.
_PLAIN_BEGINNINGS: Final = (True, False, None, "gaussian", "eva", "orthogonal")
_TASKS: Final = (None, "CAUSAL_LM", "SEQ_2_SEQ_LM")


@dataclass(frozen=True, slots=True)
class AdapterSource:
    """An adapter to load: the name to serve it under, and its folder or its name on the hub."""

    name: str
    path: str


class LoraConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that matter, by PEFT's names. Layers are named by their path in the base model."""

    r: int
    lora_alpha: float
    target_modules: str | list[str]
    peft_type: str
    exclude_modules: str | list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: str | list[str] | None = None
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool = False
    bias: str = "none"
    init_lora_weights: bool | str | None = True
    task_type: str | None = None
    base_model_name_or_path: str | None = None

    def changes(self, layer: str) -> bool:
        """Whether the adapter is meant to change this layer."""
        if self.exclude_modules and _names(self.exclude_modules, layer):
            return False
        if not _names(self.target_modules, layer):
            return False
        # PEFT looks at layer numbers only where the targets are a list.
        wanted = self.layers_to_transform
        if isinstance(self.target_modules, str) or wanted is None or wanted == []:
            return True
        number = self._number(layer)
        return number is not None and number in ([wanted] if isinstance(wanted, int) else wanted)

    def _number(self, layer: str) -> int | None:
        given = self.layers_pattern or []
        patterns = [rf"(?:^|.*?\.){pattern}" for pattern in ([given] if isinstance(given, str) else given)]
        for pattern in patterns or [r".*?\.[^.]*"]:
            if found := re.match(rf"{pattern}\.(?P<number>\d+)\.", layer):
                return int(found["number"])
        return None

    def rank(self, layer: str) -> int:
        """The rank of the change of a layer."""
        return _by_pattern(self.rank_pattern, layer, self.r)

    def scaling(self, layer: str) -> float:
        """The factor of the change of a layer."""
        rank = self.rank(layer)
        return _by_pattern(self.alpha_pattern, layer, self.lora_alpha) / (math.sqrt(rank) if self.use_rslora else rank)


def read_config(folder: Path) -> LoraConfig:
    """The configuration in an adapter's folder. Raises invalid_request or unsupported in one sentence."""
    file = folder / CONFIG_FILE
    try:
        raw: Any = msgspec.json.decode(file.read_bytes())
    except FileNotFoundError:
        raise invalid("path", f"'{folder}' holds no {CONFIG_FILE}: it is not an adapter in PEFT's format") from None
    except (OSError, msgspec.DecodeError) as error:
        raise invalid("path", f"'{file}' cannot be read: {error}") from None
    if not isinstance(raw, dict):
        raise invalid("path", f"'{file}' is not a JSON object")
    given: dict[str, Any] = raw  # pyright: ignore[reportUnknownVariableType]
    if (kind := given.get("peft_type")) != "LORA":
        raise _refused(file, "peft_type", kind)
    try:
        config = msgspec.convert(given, LoraConfig)
    except msgspec.ValidationError as error:
        raise invalid("path", f"'{file}' cannot be used: {error}") from None
    _check(file, config, given)
    return config


def _check(file: Path, config: LoraConfig, given: dict[str, Any]) -> None:
    if config.bias != "none":
        raise _refused(file, "bias", config.bias)
    if config.task_type not in _TASKS:
        raise _refused(file, "task_type", config.task_type)
    if config.init_lora_weights not in _PLAIN_BEGINNINGS:
        raise _refused(file, "init_lora_weights", config.init_lora_weights, "it changes the base model's own weights")
    for name, value in given.items():
        if name not in _INERT and name not in LoraConfig.__struct_fields__ and value not in (None, False, "", [], {}):
            raise _refused(file, name, value)
    for rank in (config.r, *(config.rank_pattern or {}).values()):
        if rank < 1:
            raise invalid("path", f"'{file}' sets a rank of {rank}: must be at least 1")
    for pattern in _patterns(config):
        try:
            re.compile(pattern)
        except re.error as error:
            raise invalid("path", f"'{file}' has '{pattern}', which is no regular expression: {error}") from None


def _refused(file: Path, name: str, value: object, why: str = "only plain LoRA is served") -> MeshError:
    return unsupported("path", f"'{file}' sets '{name}' to {msgspec.json.encode(value).decode()[:80]}: {why}")


def _patterns(config: LoraConfig) -> Iterable[str]:
    for given in (config.target_modules, config.exclude_modules):
        if isinstance(given, str):
            yield given
    layers = config.layers_pattern or []
    yield from [layers] if isinstance(layers, str) else layers
    for table in (config.rank_pattern, config.alpha_pattern):
        yield from table or {}


def _names(given: str | list[str], layer: str) -> bool:
    """Whether a regular expression, or a list of names and ends of names, names this layer."""
    if isinstance(given, str):
        return re.fullmatch(given, layer) is not None
    return any(layer == name or layer.endswith(f".{name}") for name in given)


def _by_pattern(table: dict[str, Number] | None, layer: str, default: Number) -> Number:
    """The value of the first pattern that the layer's name, or an end of it that follows a dot, matches."""
    for pattern, value in (table or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return value
    return default
