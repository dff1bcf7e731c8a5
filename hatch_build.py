"""Compiles `protos/` into the tree: a hatchling build hook, and a command (`make protos`).

A folder is a package: `protos/mesh/v1/x.proto` becomes `mesh/v1/x_pb2.py` (messages), `x_pb2.pyi` (their
types) and, where the file defines services, `x_pb2_grpc.py` with `x_pb2_grpc.pyi`. protoc knows no types for
gRPC code, so the last one is written here. The output is not committed; wheels carry it, source archives
carry `protos/` instead.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

INIT = '"""Generated from protos/ by `make protos`: do not edit, do not commit."""\n'
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


class ProtoBuildHook(BuildHookInterface[Any]):
    """Runs before hatchling collects the files of a wheel, plain or editable."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the protos; `artifacts` in pyproject.toml takes the result into the wheel."""
        compile_protos(Path(self.root))


def compile_protos(root: Path) -> list[Path]:
    """Write the generated code for every proto under `root/protos`; returns the files that changed.

    Each file is replaced in one step and only when its text differs, so that running processes, other builds
    and time stamps are left in peace. Output of protos that are gone is removed.
    """
    source = root / "protos"
    protos = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.proto"))
    if not protos:
        raise SystemExit(f"no .proto file under {source}")
    with tempfile.TemporaryDirectory(prefix="protos-") as scratch:
        built = Path(scratch)
        _run_protoc(source, built, protos)
        _write_service_types(built)
        _write_inits(root, built)
        _remove_stale(root, built)
        return list(_install(root, built))


def _run_protoc(source: Path, out: Path, protos: list[str]) -> None:
    bundled = resources.files("grpc_tools") / "_proto"
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc"),
            *(f"--proto_path={source}", f"--proto_path={bundled}"),
            *(f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}"),
            *("--include_imports", f"--descriptor_set_out={out / 'all.binpb'}"),
            *protos,
        ],
        check=True,
    )


def _write_service_types(out: Path) -> None:
    """Write `x_pb2_grpc.pyi` beside each `x_pb2_grpc.py`; a file without services has no gRPC code at all."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    image = out / "all.binpb"
    files = FileDescriptorSet.FromString(image.read_bytes()).file
    image.unlink()
    messages = {
        f".{file.package}.{message.name}": (_module(file.name), message.name)
        for file in files
        for message in file.message_type
    }
    for file in (file for file in files if (out / file.name).parent.is_dir()):
        code = out / f"{_module(file.name).replace('.', '/')}_grpc.py"
        if file.service:
            code.with_suffix(".pyi").write_text("\n".join(_service_types(file, messages)) + "\n")
        else:
            code.unlink(missing_ok=True)


def _module(proto: str) -> str:
    return proto.removesuffix(".proto").replace("/", ".") + "_pb2"


def _service_types(file: Any, messages: dict[str, tuple[str, str]]) -> Iterator[str]:
    """The type stub of one file's services, as the asyncio API of gRPC has them."""
    used = [messages[name] for s in file.service for m in s.method for name in (m.input_type, m.output_type)]
    yield INIT.rstrip()
    yield ""
    yield "from collections.abc import AsyncIterator"
    yield ""
    yield "import grpc"
    yield "import grpc.aio"
    yield from (f"import {module}" for module in sorted({module for module, _ in used}))
    for service in file.service:
        calls = [(m, ".".join(messages[m.input_type]), ".".join(messages[m.output_type])) for m in service.method]
        yield f"\nclass {service.name}Stub:"
        yield "    def __init__(self, channel: grpc.aio.Channel) -> None: ..."
        for method, request, response in calls:
            yield f"    {method.name}: grpc.aio.{_arity(method)}MultiCallable[{request}, {response}]"
        yield f"\nclass {service.name}Servicer:"
        yield from (_handler_types(*call) for call in calls)
        yield f"\ndef add_{service.name}Servicer_to_server("
        yield f"    servicer: {service.name}Servicer, server: grpc.aio.Server"
        yield ") -> None: ..."


def _arity(method: Any) -> str:
    given = "Stream" if method.client_streaming else "Unary"
    return given + ("Stream" if method.server_streaming else "Unary")


def _handler_types(method: Any, request: str, response: str) -> str:
    """One servicer method; a streaming answer is an async generator, hence `def` and not `async def`."""
    given = f"AsyncIterator[{request}]" if method.client_streaming else request
    define, returned = "async def", response
    if method.server_streaming:
        define, returned = "def", f"AsyncIterator[{response}]"
    context = f"grpc.aio.ServicerContext[{request}, {response}]"
    return f"    {define} {method.name}(self, request: {given}, context: {context}, /) -> {returned}: ..."


def _write_inits(root: Path, built: Path) -> None:
    """Make each folder below `mesh/` a package, except where the tree has an `__init__.py` of its own."""
    for folder in (path for path in built.glob("*/**") if path.is_dir() and path.parent != built):
        ours = root / folder.relative_to(built) / "__init__.py"
        if not ours.exists() or ours.read_text() == INIT:
            (folder / "__init__.py").write_text(INIT)


def _remove_stale(root: Path, built: Path) -> None:
    for package in (path for path in built.iterdir() if path.is_dir()):
        for pattern in GENERATED:
            for old in (root / package.name).rglob(pattern):
                if not (built / old.relative_to(root)).exists():
                    old.unlink()


def _install(root: Path, built: Path) -> Iterator[Path]:
    for new in (path for path in built.rglob("*") if path.is_file()):
        target = root / new.relative_to(built)
        if target.exists() and target.read_bytes() == new.read_bytes():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copyfile(new, partial)
        partial.replace(target)
        yield target


if __name__ == "__main__":
    root = Path(__file__).resolve().parent
    for changed in compile_protos(root):
        sys.stdout.write(f"wrote {changed.relative_to(root)}\n")
