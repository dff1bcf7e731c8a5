"""/v1/conversations: what was said, item by item; responses that name one continue it."""

from __future__ import annotations

import secrets
import time
from typing import Any, Final

import msgspec
from quart import Blueprint, Response

from gateway.exchange import current
from gateway.openai.bodies import read_json
from gateway.openai.chat_schema import check_metadata
from gateway.openai.pages import OF_STORE, Deleted, Listing, PageQuery, json_response, listing, page_asked
from gateway.openai.responses.ask import entries
from gateway.openai.responses.items import Item, check_ids, check_items, id_taken
from gateway.openai.schema import decode
from gateway.operation import Operation
from gateway.store.shapes import Entry, Talk
from gateway.store.store import Store
from mesh.errors import invalid, unsupported

_GROUP: Final = "Conversations"
_PATH: Final = "/v1/conversations/<conversation_id>"
MOST_ITEMS: Final = 20  # added at a time


class NewConversation(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/conversations."""

    items: list[Item] | None = None
    metadata: dict[str, str] | None = None


class NewDetails(msgspec.Struct, forbid_unknown_fields=True):
    """Body of a request that replaces the client's own pairs."""

    metadata: dict[str, str] | None


class NewItems(msgspec.Struct, forbid_unknown_fields=True):
    """Body of a request that adds items."""

    items: list[Item]


class Conversation(msgspec.Struct):
    """A conversation."""

    id: str
    created_at: int
    metadata: dict[str, str]
    object: str = "conversation"


CREATE: Final = Operation(
    method="POST",
    path="/v1/conversations",
    summary="A new conversation.",
    group=_GROUP,
    body=NewConversation,
    answer=Conversation,
    errors=OF_STORE,
)
GET: Final = Operation(
    method="GET", path=_PATH, summary="A conversation.", group=_GROUP, answer=Conversation, errors=OF_STORE
)
UPDATE: Final = Operation(
    method="POST",
    path=_PATH,
    summary="Replace the metadata of a conversation.",
    group=_GROUP,
    body=NewDetails,
    answer=Conversation,
    errors=OF_STORE,
)
DELETE: Final = Operation(
    method="DELETE", path=_PATH, summary="Forget a conversation.", group=_GROUP, answer=Deleted, errors=OF_STORE
)
LIST_ITEMS: Final = Operation(
    method="GET",
    path=f"{_PATH}/items",
    summary="The items of a conversation.",
    group=_GROUP,
    query=PageQuery,
    answer=Listing,
    errors=OF_STORE,
)
ADD_ITEMS: Final = Operation(
    method="POST",
    path=f"{_PATH}/items",
    summary="Add items to a conversation.",
    group=_GROUP,
    body=NewItems,
    answer=Listing,
    errors=OF_STORE,
)
GET_ITEM: Final = Operation(
    method="GET",
    path=f"{_PATH}/items/<item_id>",
    summary="An item of a conversation.",
    group=_GROUP,
    answer=dict[str, Any],
    errors=OF_STORE,
)
DELETE_ITEM: Final = Operation(
    method="DELETE",
    path=f"{_PATH}/items/<item_id>",
    summary="Forget an item of a conversation.",
    group=_GROUP,
    answer=Conversation,
    errors=OF_STORE,
)
CONVERSATIONS: Final = (CREATE, GET, UPDATE, DELETE, LIST_ITEMS, ADD_ITEMS, GET_ITEM, DELETE_ITEM)
_creations: Final = msgspec.json.Decoder(NewConversation)
_details: Final = msgspec.json.Decoder(NewDetails)
_additions: Final = msgspec.json.Decoder(NewItems)


def conversation_routes(store: Store) -> Blueprint:
    """The routes of conversations themselves."""
    routes = Blueprint("conversations", __name__)

    @CREATE.on(routes)
    async def create() -> Response:  # pyright: ignore[reportUnusedFunction]
        asked = decode(_creations, await read_json())
        check_metadata(asked.metadata or {})
        said = _checked(asked.items) if asked.items else []
        talk = Talk(f"conv_{secrets.token_hex(24)}", int(time.time()), asked.metadata or {})
        await (await store.conversations()).create(current().tenant, talk, said)
        return _shown(talk)

    @GET.on(routes)
    async def get(conversation_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        return _shown(await (await store.conversations()).read(current().tenant, conversation_id))

    @UPDATE.on(routes)
    async def update(conversation_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        details = await read_details()
        return _shown(await (await store.conversations()).update(current().tenant, conversation_id, details))

    @DELETE.on(routes)
    async def delete(conversation_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        await (await store.conversations()).remove(current().tenant, conversation_id)
        return json_response(Deleted(conversation_id, "conversation.deleted"))

    return routes


def conversation_item_routes(store: Store) -> Blueprint:
    """The routes of their items."""
    routes = Blueprint("conversation_items", __name__)

    @LIST_ITEMS.on(routes)
    async def list_items(conversation_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        found, more = await (await store.conversations()).items(current().tenant, conversation_id, page_asked())
        return listing(found, more=more)

    @ADD_ITEMS.on(routes)
    async def add_items(conversation_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        said = _checked(decode(_additions, await read_json()).items)
        taken = await (await store.conversations()).add(current().tenant, conversation_id, said)
        if taken is not None:
            raise id_taken("items", taken)
        return listing(said, more=False)

    @GET_ITEM.on(routes)
    async def get_item(conversation_id: str, item_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        body = await (await store.conversations()).item(current().tenant, conversation_id, item_id)
        return Response(body, content_type="application/json")

    @DELETE_ITEM.on(routes)
    async def delete_item(conversation_id: str, item_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        return _shown(await (await store.conversations()).remove_item(current().tenant, conversation_id, item_id))

    return routes


async def read_details() -> dict[str, str]:
    """The pairs of a body that replaces them. Raises MeshError."""
    details = decode(_details, await read_json()).metadata or {}
    check_metadata(details)
    return details


def _checked(items: list[Item]) -> list[Entry]:
    """Items as they are kept. Raises MeshError."""
    check_items(items, "items")
    check_ids(items, "items")
    if len(items) > MOST_ITEMS:
        raise invalid("items", f"'items' must hold at most {MOST_ITEMS} items at a time, not {len(items)}")
    for index, item in enumerate(items):
        if item.kind == "item_reference":
            raise unsupported(f"items[{index}].type", f"'items[{index}].type' must not be item_reference here")
    return entries(items)


def _shown(talk: Talk) -> Response:
    return json_response(Conversation(talk.id, talk.created_at, talk.details))
