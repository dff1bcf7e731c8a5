"""Which devices the replicas of a model get: `cpu`, `mps`, `cuda:0`, or several as `cuda:0,1`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from mesh.cli.up.document import Value
from mesh.config import ConfigError

_PATTERN = re.compile(r"cpu|mps|(?:cuda|xpu|npu)(?::\d+(?:,\d+)*)?")
NOWHERE: tuple[list[str], Mapping[str, str]] = ([], {})


def read(given: Value) -> list[str]:
    """The devices of a list, or one without a list; raises ConfigError."""
    found = given.texts()
    for text in found:
        if not _PATTERN.fullmatch(text):
            raise given.error(f"must be cpu, mps, cuda:N, xpu:N or npu:N, or several as cuda:0,1, not '{text}'")
        numbers = text.partition(":")[2]
        if "," in numbers and not text.startswith("cuda"):
            raise given.error(f"can name several devices for one replica with cuda only, not '{text}'")
    if not found:
        raise given.error("names no device")
    for text in found:
        try:
            _variables(text)
        except ConfigError as error:
            raise given.error(str(error)) from None
    return found


def place(given: Value, found: Iterable[str], engine: str) -> list[tuple[list[str], dict[str, str]]]:
    """Flags and variables that put a worker on each device; raises ConfigError where the engine cannot.

    On CUDA the process sees its own devices only, which works for every engine, and it cannot take memory on others.
    """
    if engine not in ("transformers", "vllm"):
        raise given.error(f"has no effect with engine {engine}")
    if engine == "vllm" and any(not device.startswith("cuda") for device in found):
        raise given.error("can name CUDA devices only with engine vllm")
    return [_placed(device, engine) for device in found]


def _placed(device: str, engine: str) -> tuple[list[str], dict[str, str]]:
    if engine == "vllm":
        return [], _variables(device)
    kind, _, numbers = device.partition(":")
    if kind != "cuda":
        return [f"--device={device}"], {}
    count = len(numbers.split(",")) if numbers else 1
    return [f"--device={kind}", *([f"--num-gpus={count}"] if count > 1 else [])], _variables(device)


def _variables(device: str) -> dict[str, str]:
    """CUDA_VISIBLE_DEVICES: counted among those that this process sees, as its launcher may have chosen some."""
    kind, _, numbers = device.partition(":")
    if kind != "cuda" or not numbers:
        return {}
    chosen = [int(number) for number in numbers.split(",")]
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"names a device twice: '{device}'")
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not seen:
        return {"CUDA_VISIBLE_DEVICES": numbers}
    visible = seen.split(",")
    if max(chosen) >= len(visible):
        raise ConfigError(f"has '{device}', but CUDA_VISIBLE_DEVICES={seen} lets this process see {len(visible)}")
    return {"CUDA_VISIBLE_DEVICES": ",".join(visible[number] for number in chosen)}
