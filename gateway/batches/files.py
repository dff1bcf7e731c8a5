"""/v1/files: uploaded once, read by batches and by their owner."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Annotated, Any, Final, Literal, cast, get_args

import msgspec
from quart import Blueprint, Request, Response, request
from quart.datastructures import FileStorage
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from gateway.batches.contents import Contents
from gateway.batches.shapes import ENDED, BatchObject, FileObject, Purpose
from gateway.exchange import current
from gateway.openai.pages import OF_STORE, Deleted, Listing, json_response, listing, page_asked
from gateway.operation import Operation
from gateway.store.shapes import KeptFile
from gateway.store.store import Store
from mesh.errors import invalid, out_of_range

UPLOAD_PATH: Final = "/v1/files"
FORM: Final = "multipart/form-data"
EXPIRY: Final = (3600, 30 * 24 * 3600)
# What a form has around its file.
FORM_BYTES: Final = 64 * 1024
_MOST: Final = 10_000
_CHUNK: Final = 256 * 1024
_NAME_LENGTH: Final = 255


class FileQuery(msgspec.Struct):
    """The query of a request for a list of files."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=_MOST)] = _MOST
    after: str | None = None
    order: Literal["asc", "desc"] = "desc"
    purpose: str | None = None


class Upload(msgspec.Struct, kw_only=True):
    """The form of an upload; `file` is the content of a file."""

    file: Annotated[str, msgspec.Meta(extra_json_schema={"format": "binary"})]
    purpose: Purpose
    expires_after_anchor: Literal["created_at"] | None = msgspec.field(default=None, name="expires_after[anchor]")
    expires_after_seconds: Annotated[int, msgspec.Meta(ge=EXPIRY[0], le=EXPIRY[1])] | None = msgspec.field(
        default=None, name="expires_after[seconds]"
    )


UPLOAD: Final = Operation(
    method="POST",
    path=UPLOAD_PATH,
    summary="Upload a file.",
    group="Files",
    body=Upload,
    takes=FORM,
    answer=FileObject,
    errors=(503,),
)
LIST_FILES: Final = Operation(
    method="GET",
    path=UPLOAD_PATH,
    summary="The files that are kept.",
    group="Files",
    query=FileQuery,
    answer=Listing,
    errors=(503,),
)
GET_FILE: Final = Operation(
    method="GET",
    path="/v1/files/<file_id>",
    summary="What is known of a file.",
    group="Files",
    answer=FileObject,
    errors=OF_STORE,
)
DELETE_FILE: Final = Operation(
    method="DELETE",
    path="/v1/files/<file_id>",
    summary="Keep a file no longer.",
    group="Files",
    answer=Deleted,
    errors=OF_STORE,
)
GET_CONTENT: Final = Operation(
    method="GET",
    path="/v1/files/<file_id>/content",
    summary="The content of a file.",
    group="Files",
    gives="application/octet-stream",
    errors=OF_STORE,
)


def request_with(limits: Mapping[str, int]) -> type[Request]:
    """Requests whose bodies may have so many bytes on these paths."""

    class _Request(Request):
        def __init__(self, method: str, scheme: str, path: str, *rest: Any, **options: Any) -> None:
            if path in limits:
                options["max_content_length"] = limits[path]
            super().__init__(method, scheme, path, *rest, **options)

    return _Request


def file_routes(store: Store, contents: Contents, limit: int) -> Blueprint:
    """The routes. `limit`: the most bytes of a file."""
    routes = Blueprint("files", __name__)

    @UPLOAD.on(routes)
    async def upload() -> Response:  # pyright: ignore[reportUnusedFunction]
        files = await store.files()  # before the body is read
        file, purpose, seconds = await _form(request, limit)  # pyright: ignore[reportArgumentType]
        file_id = f"file-{uuid.uuid4().hex}"
        size = await contents.write(file_id, _pieces(file, limit))
        name = (file.filename or "upload")[:_NAME_LENGTH]
        found = kept_file(file_id, name, purpose, size, seconds)
        await files.keep(current().tenant, found)
        return Response(found.body, content_type="application/json")

    @LIST_FILES.on(routes)
    async def list_files() -> Response:  # pyright: ignore[reportUnusedFunction]
        page = page_asked(limit=_MOST, most=_MOST)
        found, more = await (await store.files()).list(current().tenant, request.args.get("purpose"), page)
        return listing(found, more=more)

    @GET_FILE.on(routes)
    async def get_file(file_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response(await (await store.files()).read(current().tenant, file_id), content_type="application/json")

    @DELETE_FILE.on(routes)
    async def delete_file(file_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        files = await store.files()
        await files.read(current().tenant, file_id)  # first of all, whether there is one
        if file_id in (inputs := await inputs_in_use(store)):
            raise invalid("file_id", f"the file is the input of the batch '{inputs[file_id]}', which has not ended")
        await files.remove(current().tenant, file_id)
        await contents.remove(file_id)
        return json_response(Deleted(file_id, "file"))

    @GET_CONTENT.on(routes)
    async def get_content(file_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        await (await store.files()).read(current().tenant, file_id)
        content = contents.read(file_id)
        first = await anext(content, b"")  # a content that cannot be read is an error with a status of its own
        response = Response(_rest(first, content), content_type="application/octet-stream")
        response.timeout = None
        return response

    return routes


async def inputs_in_use(store: Store) -> dict[str, str]:
    """The files that batches are still reading, and the batch of each."""
    bodies = await (await store.batches()).under_way(ENDED)
    batches = [msgspec.json.decode(body, type=BatchObject) for body in bodies]
    return {batch.input_file_id: batch.id for batch in batches}


def kept_file(file_id: str, name: str, purpose: str, size: int, seconds: int | None) -> KeptFile:
    """A file that now begins to be kept, for so many seconds."""
    now = int(time.time())
    end = None if seconds is None else now + seconds
    body = FileObject(id=file_id, bytes=size, created_at=now, expires_at=end, filename=name, purpose=purpose)
    return KeptFile(file_id, purpose, now, end, msgspec.json.encode(body))


async def _form(given: Request, limit: int) -> tuple[FileStorage, str, int | None]:
    """File, purpose and seconds of an upload. Raises invalid_request naming the field, and what is no such form."""
    if given.mimetype != FORM:
        raise UnsupportedMediaType(f"the content type must be {FORM}, not '{given.mimetype or 'missing'}'")
    given.max_content_length = limit + FORM_BYTES
    form = cast("MultiDict[str, str]", await given.form)
    files: MultiDict[str, FileStorage] = await given.files
    for name in (*form, *files):
        if name not in ("file", "purpose", "expires_after[anchor]", "expires_after[seconds]"):
            raise invalid(name[:200], f"'{name[:200]}' is not a field of this API, or one that is not supported")
    file = files.get("file")
    if file is None:
        raise invalid("file", "'file' is required, as a part of the form with a file name")
    purpose = form.get("purpose", "")
    if purpose not in get_args(Purpose):
        raise invalid("purpose", f"'purpose' must be one of {', '.join(get_args(Purpose))}, not '{purpose[:64]}'")
    return file, purpose, _seconds(form.get("expires_after[anchor]"), form.get("expires_after[seconds]"))


def _seconds(anchor: str | None, seconds: str | None) -> int | None:
    if seconds is None and anchor is None:
        return None
    if anchor != "created_at":
        param = "expires_after[anchor]"
        raise invalid(param, f"'{param}' must be created_at, not '{(anchor or '')[:64]}'")
    param = "expires_after[seconds]"
    if seconds is None or not (seconds.isascii() and seconds.isdigit() and len(seconds) < 10):
        raise invalid(param, f"'{param}' must be a whole number, not '{(seconds or '')[:64]}'")
    return checked_seconds(param, int(seconds))


def checked_seconds(param: str, seconds: int) -> int:
    """For how long a file is kept. Raises invalid_request."""
    if not EXPIRY[0] <= seconds <= EXPIRY[1]:
        raise out_of_range(param, seconds, *EXPIRY)
    return seconds


async def _pieces(file: FileStorage, limit: int) -> AsyncIterator[bytes]:
    size = 0
    while chunk := file.stream.read(_CHUNK):
        size += len(chunk)
        if size > limit:
            raise RequestEntityTooLarge
        yield chunk


async def _rest(first: bytes, content: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in content:
        yield chunk
