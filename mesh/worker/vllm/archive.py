"""The zip archive in which vLLM's service hands a tokenizer over."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from mesh.errors import invalid
from mesh.vllm.v1 import engine_pb2 as vllm

_CHUNK_BYTES = 64 * 1024


def pack(files: Mapping[str, bytes]) -> bytes:
    """The archive of some files; the same bytes for the same files, as clients know a tokenizer by its hash."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as written:
        for name in sorted(files):
            written.writestr(zipfile.ZipInfo(name), files[name], zipfile.ZIP_DEFLATED)
    return archive.getvalue()


def chunks(archive: bytes) -> Iterator[vllm.GetTokenizerChunk]:
    """The archive in pieces, its hash with the last one."""
    for place in range(0, len(archive), _CHUNK_BYTES):
        chunk = vllm.GetTokenizerChunk(data=archive[place : place + _CHUNK_BYTES])
        if place + _CHUNK_BYTES >= len(archive):
            chunk.sha256 = hashlib.sha256(archive).hexdigest()
        yield chunk


def unpack(archive: bytes, folder: Path, limit: int) -> None:
    """Write the archive's files into a folder, without what folders the archive has. Raises MeshError if it is none, or
    holds more than `limit` bytes."""
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            members = [member for member in opened.infolist() if not member.is_dir() and "/" not in member.filename]
            if sum(member.file_size for member in members) > limit:
                raise invalid("upstream", f"the server's tokenizer has more than {limit} bytes")
            for member in members:
                (folder / Path(member.filename).name).write_bytes(opened.read(member))
    except zipfile.BadZipFile as error:
        raise invalid("upstream", f"the server's tokenizer is no zip archive: {error}") from None
