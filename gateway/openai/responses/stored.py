"""What has been kept of responses: GET and DELETE /v1/responses/{id}, and its input_items."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from quart import Blueprint, Response, request

from gateway.exchange import current
from gateway.openai.pages import OF_STORE, Deleted, Listing, PageQuery, json_response, listing, page_asked
from gateway.openai.responses.answer import ResponseBody, ResponseEvent
from gateway.openai.responses.background import BackgroundResponses, told
from gateway.operation import Operation
from gateway.store.store import Store
from mesh.errors import invalid


class GetQuery(msgspec.Struct):
    """The query of a request for a response: whether as a stream, and behind which event."""

    stream: bool = False
    starting_after: Annotated[int, msgspec.Meta(ge=0, le=10**9 - 1)] | None = None


GET_RESPONSE: Final = Operation(
    method="GET",
    path="/v1/responses/<response_id>",
    summary="A response that was kept.",
    group="Responses",
    query=GetQuery,
    events=(ResponseEvent,),
    answer=ResponseBody,
    errors=OF_STORE,
)
DELETE_RESPONSE: Final = Operation(
    method="DELETE",
    path="/v1/responses/<response_id>",
    summary="Keep a response no longer.",
    group="Responses",
    answer=Deleted,
    errors=OF_STORE,
)
LIST_INPUT: Final = Operation(
    method="GET",
    path="/v1/responses/<response_id>/input_items",
    summary="The items that a response answers.",
    group="Responses",
    query=PageQuery,
    answer=Listing,
    errors=OF_STORE,
)


CANCEL: Final = Operation(
    method="POST",
    path="/v1/responses/<response_id>/cancel",
    summary="End a response that is made in the background.",
    group="Responses",
    answer=ResponseBody,
    errors=OF_STORE,
)


def stored_response_routes(store: Store, background: BackgroundResponses, *, keep_alive: float) -> Blueprint:
    """The routes. `keep_alive`: see KeepAlive."""
    routes = Blueprint("stored_responses", __name__)

    @GET_RESPONSE.on(routes)
    async def get_response(response_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        exchange = current()
        query = _read_query()
        if not query.stream:
            body = await (await store.responses()).read(exchange.tenant, response_id)
            return Response(body, content_type="application/json")
        await (await store.background()).events(exchange.tenant, response_id, 0)  # an error now has its own status
        after = -1 if query.starting_after is None else query.starting_after
        return told(exchange, background, response_id, after, keep_alive)

    @DELETE_RESPONSE.on(routes)
    async def delete_response(response_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        await (await store.responses()).remove(current().tenant, response_id)
        return json_response(Deleted(response_id, "response"))

    @CANCEL.on(routes)
    async def cancel_response(response_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        body = await (await store.background()).cancel(current().tenant, response_id)
        return Response(body, content_type="application/json")

    @LIST_INPUT.on(routes)
    async def list_input_items(response_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        found, more = await (await store.responses()).inputs(current().tenant, response_id, page_asked())
        return listing(found, more=more)

    return routes


def _read_query() -> GetQuery:
    """What the query says. Raises MeshError."""
    stream = request.args.get("stream", "false")
    if stream not in ("true", "false"):
        raise invalid("stream", f"'stream' must be true or false, not '{stream[:64]}'")
    after = request.args.get("starting_after")
    if after is not None and stream == "false":
        raise invalid("starting_after", "'starting_after' needs 'stream' to be true")
    if after is not None and not (after.isascii() and after.isdigit() and len(after) < 10):
        raise invalid("starting_after", f"'starting_after' must be the number of an event, not '{after[:64]}'")
    return GetQuery(stream == "true", None if after is None else int(after))
