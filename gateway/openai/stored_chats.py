"""Chat completions that were made with `store: true`: listed, read, named anew and forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
from quart import Blueprint, Response, request

from gateway.errors import ErrorAnswer
from gateway.exchange import current
from gateway.openai.chat_collect import ChatCollector
from gateway.openai.chat_events import ChatEvents
from gateway.openai.chat_schema import ChatRequest
from gateway.openai.conversations import NewDetails, read_details
from gateway.openai.messages import ChatMessage
from gateway.openai.pages import OF_STORE, Deleted, Listing, PageQuery, json_response, listing, page_asked
from gateway.openai.respond import Keep
from gateway.operation import Operation
from gateway.reconnect import EventIds
from gateway.routing.events import Event
from gateway.store.shapes import Entry, Talk
from gateway.store.store import Store

_PATH: Final = "/v1/chat/completions/<chat_id>"
_encode = msgspec.json.encode


class ChatQuery(PageQuery):
    """The query of a list of chat completions; `metadata[KEY]=VALUE`, repeated, wants these pairs."""

    order: Literal["asc", "desc"] = "asc"
    model: str | None = None


LIST: Final = Operation(
    method="GET",
    path="/v1/chat/completions",
    summary="The chat completions that were kept.",
    group="Chat",
    query=ChatQuery,
    answer=Listing,
    errors=OF_STORE,
)
GET: Final = Operation(
    method="GET",
    path=_PATH,
    summary="A chat completion that was kept.",
    group="Chat",
    answer=dict[str, Any],
    errors=OF_STORE,
)
UPDATE: Final = Operation(
    method="POST",
    path=_PATH,
    summary="Replace the metadata of a chat completion.",
    group="Chat",
    body=NewDetails,
    answer=dict[str, Any],
    errors=OF_STORE,
)
DELETE: Final = Operation(
    method="DELETE",
    path=_PATH,
    summary="Keep a chat completion no longer.",
    group="Chat",
    answer=Deleted,
    errors=OF_STORE,
)
LIST_MESSAGES: Final = Operation(
    method="GET",
    path=f"{_PATH}/messages",
    summary="The messages that a chat completion answers.",
    group="Chat",
    query=PageQuery,
    answer=Listing,
    errors=OF_STORE,
)
STORED_CHATS: Final = (LIST, GET, UPDATE, DELETE, LIST_MESSAGES)


def stored_chat_routes(store: Store) -> Blueprint:
    """The routes."""
    routes = Blueprint("stored_chats", __name__)

    @LIST.on(routes)
    async def list_() -> Response:  # pyright: ignore[reportUnusedFunction]
        details = {
            name[len("metadata[") : -1]: value
            for name, value in request.args.items()
            if name.startswith("metadata[") and name.endswith("]")
        }
        page = page_asked(order="asc")
        found, more = await (await store.chats()).list(current().tenant, page, request.args.get("model"), details)
        return listing([_entry(body, own) for body, own in found], more=more)

    @GET.on(routes)
    async def get(chat_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        body, details = await (await store.chats()).read(current().tenant, chat_id)
        return Response(_entry(body, details).body, content_type="application/json")

    @UPDATE.on(routes)
    async def update(chat_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        details = await read_details()
        body = await (await store.chats()).update(current().tenant, chat_id, details)
        return Response(_entry(body, details).body, content_type="application/json")

    @DELETE.on(routes)
    async def delete(chat_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        await (await store.chats()).remove(current().tenant, chat_id)
        return json_response(Deleted(chat_id, "chat.completion.deleted"))

    @LIST_MESSAGES.on(routes)
    async def list_messages(chat_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        found, more = await (await store.chats()).messages(current().tenant, chat_id, page_asked(order="asc"))
        return listing(found, more=more)

    return routes


class Gathering:
    """Chunks of a stream whose answer is gathered meanwhile, to be kept."""

    def __init__(self, chunks: ChatEvents, collector: ChatCollector) -> None:
        self._chunks = chunks
        self._collector = collector

    @property
    def ids(self) -> EventIds | None:
        """See respond.Chunks."""
        return self._chunks.ids

    def render(self, events: Sequence[Event]) -> bytes:
        """See respond.Chunks."""
        self._collector.add(events)
        return self._chunks.render(events)

    def failed(self, failure: ErrorAnswer) -> bytes:
        """See respond.Chunks."""
        return self._chunks.failed(failure)


def chat_keeper(store: Store, tenant: str, chat: ChatRequest, collector: ChatCollector) -> Keep:
    """Keeps an answer once it is whole."""

    async def keep() -> None:
        answer = collector.answer()
        talk = Talk(answer.id, answer.created, chat.metadata or {})
        messages = [_message(f"{answer.id}-{place}", message) for place, message in enumerate(chat.messages)]
        await (await store.chats()).keep(tenant, talk, chat.model, _encode(answer), messages)

    return keep


def _message(message_id: str, message: ChatMessage) -> Entry:
    parts = message.content if isinstance(message.content, list) else None
    given: dict[str, Any] = msgspec.to_builtins(message)
    shown = {name: value for name, value in given.items() if value is not None}
    text = message.content if isinstance(message.content, str) else None
    shown |= {"id": message_id, "content": text, "refusal": message.refusal}
    shown["content_parts"] = None if parts is None else [_without_nulls(part) for part in given["content"]]
    return Entry(message_id, _encode(shown))


def _without_nulls(part: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if value is not None}


def _entry(body: bytes, details: dict[str, str]) -> Entry:
    """An answer with the client's own pairs."""
    answer: dict[str, Any] = msgspec.json.decode(body)
    return Entry(answer["id"], _encode({**answer, "metadata": details}))
