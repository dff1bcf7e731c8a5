"""What a request asks for, with all that it refers to: what was said before, its tools, its images."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.openai.chat_schema import ChatRequest
from gateway.openai.images import ImageLimits, Images, read_images
from gateway.openai.parts import PartOptions
from gateway.openai.responses.answer import ResponseBody
from gateway.openai.responses.events import ResponseEvents
from gateway.openai.responses.items import Item, check_ids, kept
from gateway.openai.responses.schema import ENCRYPTED, ResponseQuestion, ResponseRequest
from gateway.openai.responses.tools import HostedTools, Toolbox
from gateway.openai.responses.translate import Origins, Talk, checked, to_chat
from gateway.reconnect import EventIds
from gateway.store.shapes import Entry, Kept
from gateway.store.store import Store
from mesh.errors import ErrorKind, MeshError

_decoder: Final = msgspec.json.Decoder(Item)
_encode = msgspec.json.encode
_ID_BYTES: Final = 24


@dataclass(slots=True)
class Asked:
    """A request as a chat. `inputs`: its own items, as they are kept; `chain`: the responses that it continues;
    `before`: what was said in them or in the conversation, as JSON."""

    chat: ChatRequest
    toolbox: Toolbox
    origins: Origins
    inputs: list[Entry]
    chain: list[str]
    before: list[bytes]

    async def images(self, limits: ImageLimits) -> Images:
        """The images that are shown, also before. Raises MeshError."""
        with self.origins.told():
            return await read_images(self.chat, limits) if self.chat.has_images else {}


async def ask(question: ResponseQuestion, tenant: str, store: Store, *, hosted: HostedTools) -> Asked:
    """Look up and check what a request asks for. Raises MeshError with the request's own names of fields."""
    toolbox = Toolbox(question.tools, hosted=hosted)
    origins = Origins()
    for index, place in enumerate(toolbox.places):
        origins.names[f"tools[{index}].function"] = origins.names[f"tools[{index}]"] = place
    given = question.input or []
    items = [Item(role="user", content=given)] if isinstance(given, str) else given
    chain: list[str] = []
    before: list[bytes] = []
    previous, conversation = question.previous_response_id, question.conversation_id
    if previous is not None or conversation is not None:
        past = await (await store.responses()).past(tenant, previous, conversation)
        chain, before = past.chain, past.items
    items = await _resolved(items, tenant, store)
    said = [_decoder.decode(each) for each in before]
    check_ids(items, before=said)
    talk = Talk(question.instructions, origins)
    talk.add(said, "previous_response_id" if previous else "conversation")
    talk.add(items, "input")
    chat = checked(to_chat(question, toolbox, talk.messages), origins)
    return Asked(chat, toolbox, origins, entries(items), chain, before)


async def _resolved(items: Sequence[Item], tenant: str, store: Store) -> list[Item]:
    """Items that are only named, replaced by themselves. Raises not_found."""
    named = {item.id or "" for item in items if item.kind == "item_reference"}
    if not named:
        return list(items)
    found = await (await store.responses()).items(tenant, named)
    for index, item in enumerate(items):
        if item.kind == "item_reference" and item.id not in found:
            text = f"'input[{index}].id' is '{(item.id or '')[:100]}', an item that is not kept here"
            raise MeshError(ErrorKind.NOT_FOUND, text, param=f"input[{index}].id")
    return [_decoder.decode(found[item.id or ""]) if item.kind == "item_reference" else item for item in items]


def entries(items: Sequence[Item]) -> list[Entry]:
    """Items as they are kept; those without an id get one."""
    return [entry(kept(item, secrets.token_hex(_ID_BYTES))) for item in items]


def entry(item: dict[str, Any]) -> Entry:
    """An item as it is kept."""
    return Entry(item["id"], _encode(item))


def events_of(
    request: ResponseRequest, chat: ChatRequest, toolbox: Toolbox, body: ResponseBody, ids: EventIds | None = None
) -> ResponseEvents:
    """What tells the response."""
    return ResponseEvents(
        body,
        toolbox,
        options=PartOptions.of(chat),
        logprobs=request.with_logprobs,
        summarized=request.reasoning is not None and request.reasoning.told_as_summary,
        encrypted=ENCRYPTED in request.includes,
        ids=ids,
    )


def kept_of(request: ResponseRequest, asked: Asked, body: ResponseBody) -> Kept:
    """What is kept of a response that has ended."""
    return Kept(
        id=body.id,
        created_at=body.created_at,
        model=body.model,
        status=body.status,
        details=body.metadata,
        body=_encode(body),
        chain=asked.chain,
        conversation=request.conversation_id,
        inputs=asked.inputs,
        outputs=[entry(item) for item in body.output],
    )
