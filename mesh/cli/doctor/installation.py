"""Python, the packages, and the code that is generated from the protos."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from mesh.cli.doctor.finding import Finding
from mesh.version import version

_OLDEST, _NEWEST = (3, 11), (3, 13)
_ROOT = Path(__file__).resolve().parents[3]
_GENERATED = (
    *("mesh.v1.inference_pb2_grpc", "mesh.v1.admin_pb2_grpc", "mesh.v1.registry_pb2"),
    "mesh.etcd.v1.etcd_pb2",
)
_SHOWN = 6


def python() -> list[Finding]:
    """The interpreter's version."""
    now = sys.version_info[:2]
    found = f"Python {sys.version.split()[0]}, mesh {version()}, {sys.executable}"
    if now < _OLDEST:
        return [Finding("python", "fail", found, "use Python 3.11, 3.12 or 3.13")]
    if now > _NEWEST:
        return [Finding("python", "warn", found, "it was tested with 3.11 to 3.13; use one of these if it misbehaves")]
    return [Finding("python", "ok", found)]


def requirements() -> list[str]:
    """What the installed package asks for, extras included; empty if it is not installed."""
    try:
        return metadata.requires("inference-mesh") or []
    except metadata.PackageNotFoundError:
        return []


def packages(required: Iterable[str]) -> list[Finding]:
    """Whether the packages that are there are of versions that we ask for. Those of an extra may be absent."""
    wrong: list[str] = []
    absent: dict[str, list[str]] = {}
    fine = 0
    for text in required:
        need = Requirement(text)
        extras = [name for name in _extras(need) if need.marker is None or need.marker.evaluate({"extra": name})]
        if not extras or "inference-mesh" in need.name:
            continue
        try:
            there = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            absent.setdefault(extras[0], []).append(need.name)
            continue
        if need.specifier.contains(there, prereleases=True):
            fine += 1
        else:
            wrong.append(f"{need.name} {there} is not {need.specifier}")
    return _packages_found(fine, wrong, absent)


def _extras(need: Requirement) -> list[str]:
    """The extras whose marker may ask for it; "" is none."""
    return ["", *re.findall(r"extra == ['\"]([\w-]+)['\"]", str(need.marker or ""))]


def _packages_found(fine: int, wrong: list[str], absent: dict[str, list[str]]) -> list[Finding]:
    found: list[Finding] = []
    wrong += [f"{name} is missing" for name in absent.pop("", [])]
    if wrong:
        remedy = "python -m pip install --upgrade inference-mesh, with the extras that you use"
        found.append(Finding("packages", "fail", "; ".join(wrong), remedy))
    elif fine:
        without = f"; not installed: extras {', '.join(sorted(absent))}" if absent else ""
        found.append(Finding("packages", "ok", f"{fine} packages are of the versions asked for{without}"))
    else:
        found.append(Finding("packages", "warn", "the package is not installed", "python -m pip install -e ."))
    return found


def pins(file: Path = _ROOT / "constraints.txt") -> list[Finding]:
    """In a clone: whether the packages are those that the tests run with."""
    if not file.is_file():
        return [Finding("pins", "skip", "no constraints.txt: not a clone")]
    other: list[str] = []
    for line in file.read_text("utf-8").splitlines():
        name, _, pinned = line.partition("#")[0].strip().partition("==")
        try:
            there = metadata.version(name) if name and pinned else ""
        except metadata.PackageNotFoundError:
            continue
        if there and there.partition("+")[0] != pinned.partition("+")[0]:
            other.append(f"{name} {there}, tested {pinned}")
    if not other:
        return [Finding("pins", "ok", "the packages are those that the tests run with")]
    more = f"; and {len(other) - _SHOWN} more" if len(other) > _SHOWN else ""
    remedy = f"python -m pip install --constraint {file} -e '.[all]'"
    return [Finding("pins", "warn", "; ".join(other[:_SHOWN]) + more, remedy)]


def protos(root: Path = _ROOT, modules: Iterable[str] = _GENERATED) -> list[Finding]:
    """Whether the generated code is there, can be loaded, and is not older than what it is made of."""
    for name in modules:
        try:
            import_module(name)
        except Exception as error:  # protobuf raises what it likes where versions do not fit
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            return [
                Finding("protos", "fail", f"{name}: {said}", "make protos in a clone; else install the package anew")
            ]
    stale = [proto.name for proto in sorted((root / "protos").rglob("*.proto")) if _is_newer(proto, root)]
    if stale:
        return [Finding("protos", "warn", f"{', '.join(stale)} changed after its code was generated", "make protos")]
    return [Finding("protos", "ok", "the generated code fits the installed protobuf and grpcio")]


def _is_newer(proto: Path, root: Path) -> bool:
    """Whether it has a name that its code does not know. Their times say nothing: a clone makes all files new."""
    module = ".".join(proto.relative_to(root / "protos").with_name(f"{proto.stem}_pb2").parts)
    code: Any = import_module(module)
    text = re.sub(r"//.*", "", proto.read_text("utf-8"))
    named = re.findall(r"(\w+)\s*=\s*\d+\s*[;\[]|(?:message|enum|service)\s+(\w+)", text)
    known = str(code.DESCRIPTOR.serialized_pb, "latin-1")
    return any((field or kind) not in known for field, kind in named)
