"""Where a model runs: the device, and how many threads torch may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from mesh.errors import invalid


def find_device(name: str) -> torch.device:
    """The device of this name; `auto` takes the first of cuda, mps, xpu, cpu that is there. Raises invalid_request."""
    if name == "auto":
        return next(torch.device(kind) for kind in ("cuda", "mps", "xpu", "cpu") if _device_count(kind))
    try:
        device = torch.device(name)
    except RuntimeError:
        raise invalid("device", f"'device' must be auto, cpu, cuda, cuda:N, mps or xpu, not '{name}'") from None
    count = _device_count(device.type)
    if (device.index or 0) >= count:
        raise invalid("device", f"'device' is '{name}', but this machine has {count} {device.type} devices")
    return device


def _device_count(kind: str) -> int:
    if kind == "cpu":
        return 1
    if kind == "mps":
        return int(torch.backends.mps.is_available())
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
