"""This machine: GPUs, disks, limits, ports."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import socket
import subprocess
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

from mesh.cli.doctor.finding import Finding

_GIB = 1024**3
_DRIVER_LIMIT = 10.0
# A gateway holds a descriptor for each connection, and one more for each worker.
_FEW_FILES, _ENOUGH_FILES = 1024, 8192


def gpu() -> list[Finding]:
    """Whether torch sees the GPUs that the driver sees."""
    if find_spec("torch") is None:
        return [Finding("gpu", "skip", "torch is not installed: only workers with models need it")]
    import torch

    build = f"torch {torch.__version__}"
    there = _driver()
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return [Finding("gpu", "ok", f"{build}; {len(names)} CUDA devices: {', '.join(names)}; {'; '.join(there)}")]
    if not there:
        return [Finding("gpu", "ok", f"{build}; no NVIDIA GPU: models run on the CPU")]
    if torch.version.cuda is None:
        remedy = "install torch for CUDA: https://pytorch.org/get-started"
        return [Finding("gpu", "fail", f"{build} is built for CPUs, but there is {there[0]}", remedy)]
    remedy = f"a driver for CUDA {torch.version.cuda} or newer, and see that CUDA_VISIBLE_DEVICES names GPUs"
    return [Finding("gpu", "fail", f"{build} cannot use {there[0]}", remedy)]


def _driver() -> list[str]:
    """GPUs with the driver's version, as the driver's tool lists them."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DRIVER_LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ["a GPU whose driver does not answer"]
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return lines if done.returncode == 0 else ["a GPU whose driver does not answer"]


def folders() -> dict[str, Path]:
    """Where the mesh writes: what is kept, models from the hub, temporary files."""
    home = Path.home()
    hub = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "huggingface"
    state = Path(os.environ.get("XDG_STATE_HOME") or home / ".local" / "state")
    return {"state": state, "models from the hub": Path(hub), "temporary files": Path(os.environ.get("TMPDIR", "/tmp"))}


def disk(places: Mapping[str, Path], *, least: int = _GIB, enough: int = 10 * _GIB) -> list[Finding]:
    """Whether there is room (bytes) where the mesh writes, and it may write there."""
    return [_room(what, path, least, enough) for what, path in places.items()]


def _room(what: str, path: Path, least: int, enough: int) -> Finding:
    there = next(each for each in (path, *path.parents) if each.exists())
    if not os.access(there, os.W_OK):
        return Finding("disk", "fail", f"{path} ({what}) cannot be written to", f"give this user the folder {there}")
    free = shutil.disk_usage(there).free
    found = f"{free / _GIB:.1f} GiB free in {path} ({what})"
    if free >= enough:
        return Finding("disk", "ok", found)
    return Finding("disk", "fail" if free < least else "warn", found, "make room, or move it to another disk")


def limits(files: int | None = None) -> list[Finding]:
    """How many files and connections one process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = soft if files is None else files
    unlimited = allowed == resource.RLIM_INFINITY
    found = f"a process may open {'any number of' if unlimited else allowed} files"
    if unlimited or allowed >= _ENOUGH_FILES:
        return [Finding("limits", "ok", found)]
    status = "warn" if allowed >= _FEW_FILES else "fail"
    remedy = f"ulimit -n {min(hard, 65536) if hard > 0 else 65536}, or LimitNOFILE= of its systemd unit"
    return [Finding("limits", status, f"{found}, connections among them", remedy)]


def ports(wanted: Mapping[str, str], ours: Mapping[str, str]) -> list[Finding]:
    """Whether the addresses (host:port → for what) are free, or held by a mesh of this user (host:port → its name)."""
    taken: list[Finding] = []
    held: list[str] = []
    for address, what in wanted.items():
        if address in ours:
            held.append(f"{address} by mesh {ours[address]}")
            continue
        host, _, port = address.rpartition(":")
        why = _cannot_listen(host.strip("[]"), int(port))
        if why:
            remedy = f"`ss -ltnp 'sport = :{port}'` tells who has it; choose another port, or stop that"
            taken.append(Finding("ports", "fail", f"{address} for {what}: {why}", remedy))
    return taken or [Finding("ports", "ok", _free(wanted, held))]


def _free(wanted: Iterable[str], held: list[str]) -> str:
    free = [address for address in wanted if not any(each.startswith(f"{address} ") for each in held)]
    return "; ".join([*([f"free: {', '.join(free)}"] if free else []), *([f"held: {', '.join(held)}"] if held else [])])


def _cannot_listen(host: str, port: int) -> str:
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return ""
    except OSError as error:
        return "taken" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
