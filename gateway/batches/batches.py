"""/v1/batches: made, looked at and cancelled here; worked on by gateway.batches.runner."""

from __future__ import annotations

import re
import time
import uuid
from typing import Final

import msgspec
from quart import Blueprint, Response

from gateway.batches.files import checked_seconds
from gateway.batches.runner import Runner
from gateway.batches.shapes import BATCH, ENDED, ENDPOINTS, BatchObject, BatchRequest, FileObject
from gateway.exchange import current
from gateway.openai.bodies import read_json
from gateway.openai.chat_schema import check_metadata
from gateway.openai.pages import OF_STORE, Listing, PageQuery, listing, page_asked
from gateway.openai.schema import decode
from gateway.operation import Operation
from gateway.store.shapes import KeptBatch
from gateway.store.store import Store
from mesh.errors import MeshError, invalid

_WINDOW: Final = re.compile(r"([1-9][0-9]{0,4})([smhd])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_MOST_SECONDS: Final = 30 * 86_400

CREATE_BATCH: Final = Operation(
    method="POST",
    path="/v1/batches",
    summary="Answer the requests of a file, at low priority.",
    group="Batches",
    body=BatchRequest,
    answer=BatchObject,
    errors=OF_STORE,
    values={
        "completion_window": "24h, or another time such as 90m, up to 30d",
        "endpoint": ", ".join(ENDPOINTS),
        "metadata": "at most 16 entries",
    },
)
LIST_BATCHES: Final = Operation(
    method="GET",
    path="/v1/batches",
    summary="The batches that are kept.",
    group="Batches",
    query=PageQuery,
    answer=Listing,
    errors=(503,),
)
GET_BATCH: Final = Operation(
    method="GET",
    path="/v1/batches/<batch_id>",
    summary="A batch, and how far it is.",
    group="Batches",
    answer=BatchObject,
    errors=OF_STORE,
)
CANCEL_BATCH: Final = Operation(
    method="POST",
    path="/v1/batches/<batch_id>/cancel",
    summary="End a batch; what is answered stays.",
    group="Batches",
    answer=BatchObject,
    errors=OF_STORE,
)

_decoder = msgspec.json.Decoder(BatchRequest)


def batch_routes(store: Store, runner: Runner) -> Blueprint:
    """The routes."""
    routes = Blueprint("batches", __name__)

    @CREATE_BATCH.on(routes)
    async def create_batch() -> Response:  # pyright: ignore[reportUnusedFunction]
        asked = decode(_decoder, await read_json())
        batch = _new(asked)
        await _check_input(store, asked.input_file_id)
        body = msgspec.json.encode(batch)
        batches = await store.batches()
        await batches.add(current().tenant, batch.id, KeptBatch(batch.status, body), asked.metadata or {})
        runner.wake()
        return _json(body)

    @LIST_BATCHES.on(routes)
    async def list_batches() -> Response:  # pyright: ignore[reportUnusedFunction]
        found, more = await (await store.batches()).list(current().tenant, page_asked())
        return listing(found, more=more)

    @GET_BATCH.on(routes)
    async def get_batch(batch_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        return _json(await (await store.batches()).read(current().tenant, batch_id))

    @CANCEL_BATCH.on(routes)
    async def cancel_batch(batch_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        body = await (await store.batches()).edit(current().tenant, batch_id, _cancelled)
        runner.wake(batch_id)
        return _json(body)

    return routes


def _new(asked: BatchRequest) -> BatchObject:
    """Raises invalid_request naming the field."""
    if asked.endpoint not in ENDPOINTS:
        raise invalid("endpoint", f"'endpoint' must be one of {', '.join(ENDPOINTS)}, not '{asked.endpoint[:100]}'")
    check_metadata(asked.metadata or {})
    if asked.output_expires_after is not None:
        checked_seconds("output_expires_after.seconds", asked.output_expires_after.seconds)
    now = int(time.time())
    return BatchObject(
        id=f"batch_{uuid.uuid4().hex}",
        endpoint=asked.endpoint,
        input_file_id=asked.input_file_id,
        completion_window=asked.completion_window,
        created_at=now,
        expires_at=now + _window(asked.completion_window),
        metadata=asked.metadata,
        output_expires_after=asked.output_expires_after or msgspec.UNSET,
    )


def _window(text: str) -> int:
    """Seconds of a completion window."""
    found = _WINDOW.fullmatch(text)
    seconds = int(found[1]) * _UNITS[found[2]] if found is not None else 0
    if not 1 <= seconds <= _MOST_SECONDS:
        what = "24h, or another whole number of s, m, h or d up to 30d"
        raise invalid("completion_window", f"'completion_window' must be {what}, not '{text[:64]}'")
    return seconds


async def _check_input(store: Store, file_id: str) -> None:
    try:
        file = msgspec.json.decode(await (await store.files()).read(current().tenant, file_id), type=FileObject)
    except MeshError as error:
        if error.kind.value.http_status != 404:
            raise
        raise invalid("input_file_id", f"'input_file_id' is '{file_id[:100]}', which is no file here") from None
    if file.purpose != BATCH:
        text = f"'input_file_id' must be a file with the purpose {BATCH}, not {file.purpose}"
        raise invalid("input_file_id", text)


def _cancelled(body: bytes) -> KeptBatch:
    batch = msgspec.json.decode(body, type=BatchObject)
    if batch.status in ENDED:
        raise invalid("batch_id", f"the batch is {batch.status} and cannot be cancelled")
    if batch.status != "cancelling":
        batch.status, batch.cancelling_at = "cancelling", int(time.time())
    return KeptBatch(batch.status, msgspec.json.encode(batch))


def _json(body: bytes) -> Response:
    return Response(body, content_type="application/json")
