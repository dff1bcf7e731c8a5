"""Conversations and stored chat completions, by the official SDK."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion
from openai.types.conversations import Conversation, ConversationItem
from pydantic import RootModel

from gateway.store.shapes import Page, Talk
from gateway.store.store import Store
from mesh.keys import new_key
from tests.component.gateway_fixture import GatewayUnderTest, body
from tests.component.test_gateway_keys import make_book
from tests.component.test_gateway_responses import TEXT, sent, serving, settled, talker
from tests.component.test_gateway_sdk import check


class AnyItem(RootModel[ConversationItem]):
    """Whichever item."""


@asynccontextmanager
async def client_of(gateway: GatewayUnderTest, key: str = "none") -> AsyncGenerator[Any]:
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0) as client:
        yield client


async def test_a_conversation_is_continued_by_responses() -> None:
    worker = talker()
    async with serving(worker) as gateway, client_of(gateway) as client:
        said = [{"role": "developer", "content": "Be brief."}]
        raw = await client.conversations.with_raw_response.create(items=said, metadata={"a": "b"})
        talk = check(Conversation, raw.content)
        for text in ("one", "two"):
            answer = await client.responses.create(
                model="m", input=text, conversation=talk.id, background=text == "two"
            )
            assert answer.conversation.id == talk.id
        await settled(gateway, answer.id)
        listed = await client.conversations.items.list(talk.id, order="asc", limit=4)
        assert [item.content[0].text for item in listed.data] == ["Be brief.", "one", TEXT, "two"]
        async for item in client.conversations.items.list(talk.id, limit=2):
            check(AnyItem, item.to_json())
        gone = await client.conversations.items.delete(listed.data[0].id, conversation_id=talk.id)
        assert gone.id == talk.id
        added = await client.conversations.items.create(talk.id, items=[{"role": "user", "content": "three"}])
        one = await client.conversations.items.retrieve(added.data[0].id, conversation_id=talk.id)
        assert one.content[0].text == "three"
        await client.responses.create(model="m", conversation=talk.id)
        assert (await client.conversations.update(talk.id, metadata={"c": "d"})).metadata == {"c": "d"}
        assert (await client.conversations.retrieve(talk.id)).metadata == {"c": "d"}
        assert (await client.conversations.delete(talk.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.responses.create(model="m", input="x", conversation=talk.id)
    roles = [role for role, *_ in await sent(worker)]
    assert roles == ["user", "assistant", "user", "assistant", "user"]


async def test_a_conversation_belongs_to_its_key() -> None:
    book, _, headers = make_book()
    key, text = new_key("other")
    book.on_key(key.id, key)
    mine = headers["authorization"].removeprefix("Bearer ")
    async with serving(book=book) as gateway, client_of(gateway, mine) as client, client_of(gateway, text) as other:
        talk = await client.conversations.create()
        added = await client.conversations.items.create(talk.id, items=[{"role": "user", "content": "x"}])
        for call in (
            other.conversations.retrieve(talk.id),
            other.conversations.update(talk.id, metadata={}),
            other.conversations.delete(talk.id),
            other.conversations.items.list(talk.id),
            other.conversations.items.create(talk.id, items=[{"role": "user", "content": "x"}]),
            other.conversations.items.retrieve(added.data[0].id, conversation_id=talk.id),
            other.conversations.items.delete(added.data[0].id, conversation_id=talk.id),
            other.responses.create(model="m", input="x", conversation=talk.id),
        ):
            with pytest.raises(openai.NotFoundError):
                await call


@pytest.mark.parametrize("stream", [False, True])
async def test_chat_completions_that_are_kept(stream: bool) -> None:
    async with serving() as gateway, client_of(gateway) as client:
        chats = client.chat.completions
        wanted: dict[str, Any] = body(store=True, metadata={"team": "blue"}, n=2, logprobs=True, stream=stream)
        answer = await chats.create(**wanted)
        if stream:
            ids = {chunk.id async for chunk in answer}
            answer = await chats.retrieve(ids.pop())
        await chats.create(**body(store=False, metadata={"team": "blue"}))
        other = await chats.create(**body(store=True, metadata={"team": "red"}))
        raw = await chats.with_raw_response.retrieve(answer.id)
        kept = json.loads(raw.content)
        assert kept.pop("metadata") == {"team": "blue"}
        check(ChatCompletion, json.dumps(kept))
        assert [choice["message"]["content"] for choice in kept["choices"]] == [TEXT, TEXT]
        assert len(kept["choices"][1]["logprobs"]["content"]) == 12
        assert [each.id async for each in chats.list(limit=1)] == [answer.id, other.id]
        assert [each.id async for each in chats.list(metadata={"team": "red"}, model="m")] == [other.id]
        assert [each.id async for each in chats.list(model="x")] == []
        listed = await chats.messages.list(answer.id)
        assert [(message.role, message.content) for message in listed.data] == [("user", "hi")]
        assert (await chats.update(answer.id, metadata={"team": "green"})).metadata == {"team": "green"}
        assert (await chats.delete(answer.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await chats.retrieve(answer.id)


@pytest.mark.parametrize("key", ['a"b', "a\\b", "größe", "a.b", "a[0]", "$", ""])
async def test_pairs_are_found_whatever_characters_their_keys_have(tmp_path: Path, key: str) -> None:
    store = Store(str(tmp_path / "store.db"))
    chats = await store.chats()
    for name, details in (("one", {key: "x", "other": "y"}), ("two", {key: "y"})):
        await chats.keep("", Talk(name, 0, details), "m", name.encode(), [])
    for pairs, names in (({key: "x"}, [b"one"]), ({key: "y"}, [b"two"]), ({key: "x", "other": "x"}, [])):
        found, _ = await chats.list("", Page(), None, pairs)
        assert [body for body, _ in found] == names
    await store.close()


async def test_what_lists_and_items_take_is_told() -> None:
    async with serving() as gateway:
        http = gateway.http
        for path, param in (
            ("/v1/chat/completions?limit=0", "limit"),
            ("/v1/chat/completions?order=up", "order"),
            ("/v1/chat/completions?after=x", "after"),
            ("/v1/responses/x?stream=maybe", "stream"),
            ("/v1/responses/x?starting_after=1", "starting_after"),
        ):
            refused = await http.get(path)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
        many = [{"role": "user", "content": "x"}] * 21
        for fields, param in (
            ({"items": many}, "items"),
            ({"items": [{"type": "item_reference", "id": "x"}]}, "items[0].type"),
            ({"items": [{"role": "user", "content": "x", "id": "i" * 129}]}, "items[0].id"),
            ({"metadata": {"k": "v" * 513}}, "metadata"),
            ({"name": "x"}, "name"),
        ):
            refused = await http.post("/v1/conversations", json=fields)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
