"""The zip archive in which vLLM's service hands a tokenizer over."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping

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
