"""What has been kept of responses: GET and DELETE /v1/responses/{id}, and its input_items."""

from __future__ import annotations

from typing import Final

from quart import Blueprint, Response, request

from gateway.exchange import current
from gateway.openai.pages import OF_STORE, Deleted, Listing, PageQuery, json_response, listing, page_asked
from gateway.openai.responses.answer import ResponseBody
from gateway.operation import Operation
from gateway.store.store import Store

GET_RESPONSE: Final = Operation(
    method="GET",
    path="/v1/responses/<response_id>",
    summary="A response that was kept.",
    group="Responses",
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


def stored_response_routes(store: Store) -> Blueprint:
    """The routes."""
    routes = Blueprint("stored_responses", __name__)

    @GET_RESPONSE.on(routes)
    async def get_response(response_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        body = await (await store.responses()).read(_tenant(), response_id)
        return Response(body, content_type="application/json")

    @DELETE_RESPONSE.on(routes)
    async def delete_response(response_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        await (await store.responses()).remove(_tenant(), response_id)
        return json_response(Deleted(response_id, "response"))

    @LIST_INPUT.on(routes)
    async def list_input_items(response_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        found, more = await (await store.responses()).inputs(_tenant(), response_id, page_asked())
        return listing(found, more=more)

    return routes


def _tenant() -> str:
    return current(request.scope).tenant  # pyright: ignore[reportArgumentType]
