"""Where a model runs: the device, and how many threads torch may use."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch

from mesh.errors import invalid

_KINDS: Final = ("cuda", "mps", "xpu", "npu", "cpu")


def find_device(name: str) -> torch.device:
    """The device of this name; `auto` takes the first kind that is there, CPU last. Raises invalid_request."""
    if name == "auto":
        return next(torch.device(kind) for kind in _KINDS if device_count(kind))
    kind = name.split(":")[0]
    if kind == "npu" and importlib.util.find_spec("torch_npu") is None:
        # Without it torch does not even know the word.
        raise invalid("device", "'device' is 'npu', which needs the package 'torch_npu': pip install torch_npu")
    count = device_count(kind) if kind in _KINDS else 0
    try:
        device = torch.device(name)
    except RuntimeError:
        count, device = 0, None
    if device is None or kind not in _KINDS:
        raise invalid("device", f"'device' must be auto, cpu, cuda, cuda:N, mps, xpu or npu, not '{name}'")
    if (device.index or 0) >= count:
        raise invalid("device", f"'device' is '{name}', but this machine has {count} {kind} devices")
    return device


def device_count(kind: str) -> int:
    """Devices of a kind that torch can use here."""
    if kind == "cpu":
        return 1
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    if kind == "npu" and importlib.util.find_spec("torch_npu") is not None:
        importlib.import_module("torch_npu")  # makes `torch.npu`
    module = getattr(torch, kind, None)
    return module.device_count() if module is not None and hasattr(module, "device_count") else 0


def default_threads() -> int:
    """Cores that this process may use: its affinity mask, bounded by its cgroup's quota; OMP_NUM_THREADS wins.

    More threads than free cores make the barriers of small steps many times slower.
    """
    if (given := os.environ.get("OMP_NUM_THREADS", "")).isdigit() and int(given):
        return int(given)
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min([cores, *_cgroup_quotas()]))


def _cgroup_quotas() -> Iterator[int]:
    """Whole cores allowed by each cgroup (version 2) around this process; none outside Linux."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    relative = next((line[3:] for line in lines if line.startswith("0::")), "/").strip("/")
    group = Path("/sys/fs/cgroup") / relative
    for place in (group, *group.parents):
        try:
            quota, period = (place / "cpu.max").read_text().split()
        except (OSError, ValueError):
            continue
        if quota != "max":
            yield max(1, int(quota) // int(period))
