"""`python .ci/reference/protos.py`: prints docs/protos.md, from protos/ and its comments."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import grpc_tools
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

PROTOS: Final = Path(__file__).parents[2] / "protos"
FILES: Final = ("inference", "admin", "registry")
HEAD: Final = """# gRPC messages

Written by `make docs` from `protos/mesh/v1/`; a test sees to it that it is current.

The wire between gateways, workers and clients in any language, package `mesh.v1`. A number is a field's number on the
wire and never changes its meaning; what is added gets a new one, so that older and newer processes understand each
other. Workers serve reflection and `grpc.health.v1` beside these services.
"""
Path_ = tuple[int, ...]


class Source:
    """One file with its comments, which the compiler keeps by place: `(4, 2)` is the third message."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self.file = file
        locations = file.source_code_info.location
        self._comments = {tuple(each.path): each.leading_comments for each in locations}

    def comment(self, path: Path_) -> str:
        """As one paragraph a paragraph; within a line of a table they are broken by `<br>`."""
        paragraphs = self._comments.get(path, "").strip().split("\n\n")
        return "\n\n".join(" ".join(line.strip() for line in each.splitlines()) for each in paragraphs)


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for source in _sources():
        for index, service in enumerate(source.file.service):
            lines += _service(source, service, (6, index))
        for index, message in enumerate(source.file.message_type):
            lines += _message(source, message, (4, index))
        for index, enum in enumerate(source.file.enum_type):
            lines += _enum(source, enum, (5, index))
    return "\n".join(lines).rstrip()


def _sources() -> Iterator[Source]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "files.binpb"
        bundled = Path(next(iter(grpc_tools.__path__))) / "_proto"
        subprocess.run(
            [
                *(sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTOS}", f"--proto_path={bundled}"),
                *("--include_source_info", f"--descriptor_set_out={out}"),
                *(f"mesh/v1/{name}.proto" for name in FILES),
            ],
            check=True,
        )
        files = {file.name: file for file in FileDescriptorSet.FromString(out.read_bytes()).file}
    for name in FILES:
        yield Source(files[f"mesh/v1/{name}.proto"])


def _service(source: Source, service: ServiceDescriptorProto, path: Path_) -> Iterator[str]:
    yield f"## {service.name}\n"
    yield f"{source.comment(path)}\n"
    for index, method in enumerate(service.method):
        given = ("stream " if method.client_streaming else "") + _link(method.input_type)
        answer = ("stream " if method.server_streaming else "") + _link(method.output_type)
        yield f"**{method.name}** ({given}) returns ({answer})\n"
        yield f"{source.comment((*path, 2, index))}\n"


def _message(source: Source, message: DescriptorProto, path: Path_, outer: str = "") -> Iterator[str]:
    if message.options.map_entry:
        return
    name = outer + message.name
    yield f"### {name}\n"
    yield f"{source.comment(path)}\n"
    if message.field:
        yield "| field | type | meaning |"
        yield "| :-- | :-- | :-- |"
        for index, field in enumerate(message.field):
            yield _field(source, message, field, (*path, 2, index))
        yield ""
    for index, nested in enumerate(message.nested_type):
        yield from _message(source, nested, (*path, 3, index), f"{name}.")
    for index, enum in enumerate(message.enum_type):
        yield from _enum(source, enum, (*path, 4, index), f"{name}.")


def _field(source: Source, message: DescriptorProto, field: FieldDescriptorProto, path: Path_) -> str:
    meaning = source.comment(path).replace("\n\n", "<br>").replace("|", "\\|")
    if field.HasField("oneof_index") and not field.proto3_optional:
        meaning = f"*One of `{message.oneof_decl[field.oneof_index].name}`.* {meaning}"
    return f"| `{field.name}` = {field.number} | {_type(message, field)} | {meaning} |"


def _type(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    if not field.type_name:
        kind = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    elif entry := _entry(message, field):
        return f"map of {_type(entry, entry.field[0])} to {_type(entry, entry.field[1])}"
    else:
        kind = _link(field.type_name)
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {kind}"
    return f"optional {kind}" if field.proto3_optional else kind


def _entry(message: DescriptorProto, field: FieldDescriptorProto) -> DescriptorProto | None:
    """The message behind a map."""
    name = field.type_name.rpartition(".")[2]
    return next((each for each in message.nested_type if each.options.map_entry and each.name == name), None)


def _enum(source: Source, enum: EnumDescriptorProto, path: Path_, outer: str = "") -> Iterator[str]:
    yield f"### {outer}{enum.name}\n"
    yield f"{source.comment(path)}\n"
    yield "| value | meaning |"
    yield "| :-- | :-- |"
    for index, value in enumerate(enum.value):
        yield f"| `{value.name}` = {value.number} | {source.comment((*path, 2, index))} |"
    yield ""


def _link(name: str) -> str:
    """A message of ours leads to its place on the page."""
    if not name.startswith(".mesh.v1."):
        return f"`{name.removeprefix('.')}`"
    shown = name.removeprefix(".mesh.v1.")
    return f"[{shown}](#{_anchor(shown)})"


def _anchor(heading: str) -> str:
    return heading.lower().replace(".", "")


if __name__ == "__main__":
    sys.stdout.write(page() + "\n")
