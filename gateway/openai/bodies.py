"""The bytes of a JSON request: its content type, and its compression within the limit on bodies."""

from __future__ import annotations

import asyncio
import zlib
from typing import Final

from quart import request
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from gateway.openai.keys import AT_ONCE, check_each
from mesh.errors import invalid

# As zlib counts: gzip's own header, or zlib's, which HTTP calls deflate.
_WINDOWS: Final = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


async def read_json() -> bytes:
    """The body of a JSON request, decompressed. Raises UnsupportedMediaType for anything else.

    Of a large one the keys have been looked at; `gateway.openai.schema.decode` does it for the others."""
    mimetype = request.mimetype
    if mimetype != "application/json" and not mimetype.endswith("+json"):
        raise UnsupportedMediaType(f"the content type must be application/json, not '{mimetype or 'missing'}'")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity" and encoding not in _WINDOWS:
        raise UnsupportedMediaType(f"the content encoding must be gzip, deflate or identity, not '{encoding}'")
    body = await request.get_data(cache=False, as_text=False)
    data = body if isinstance(body, bytes) else body.encode()
    if encoding != "identity":
        # In another thread: a small body can be a large one.
        data = await asyncio.to_thread(decompress, data, encoding, request.max_content_length)
    if len(data) > AT_ONCE and data.lstrip()[:1] == b"{":  # what is no object is refused by its first byte
        await asyncio.to_thread(check_each, data)
    return data


def decompress(data: bytes, encoding: str, limit: int | None) -> bytes:
    """The body as it was before `encoding` (gzip or deflate). Raises RequestEntityTooLarge as soon as it has more than
    `limit` bytes, and MeshError (invalid_request) for what is no such data, or not one whole piece of it."""
    reader = zlib.decompressobj(_WINDOWS[encoding])
    try:
        found = reader.decompress(data, 0 if limit is None else limit + 1)
    except zlib.error as error:
        raise invalid("body", f"the body is not valid {encoding} data: {error}") from None
    if limit is not None and len(found) > limit:
        raise RequestEntityTooLarge
    if not reader.eof or reader.unused_data:
        raise invalid("body", f"the body must be one whole piece of {encoding} data")
    return found
