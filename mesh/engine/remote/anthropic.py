"""Anthropic's Messages API."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from mesh.engine.base import Chat, Image, Message, Request
from mesh.engine.remote.answer import Answer, End, Piece, Usage, call_text, decode, end_reason
from mesh.engine.remote.asked import refuse
from mesh.engine.remote.failure import from_event
from mesh.engine.remote.options import RemoteOptions
from mesh.engine.remote.provider import arguments_of, schema_of, text_of
from mesh.errors import invalid, unsupported

_VERSION = "2023-06-01"
_HONOURED = frozenset(
    (
        *("temperature", "top_p", "top_k", "max_tokens", "stop", "json_schema", "images"),
        *("tools", "messages.tool_calls", "messages.tool_call_id"),
    )
)


class Anthropic:
    """See Provider."""

    capabilities = frozenset({"chat", "constraint", "vision", "tools"})

    def __init__(self, options: RemoteOptions) -> None:
        self._model = options.model
        self._key = options.key
        self._answer_tokens = options.answer_tokens

    def headers(self, key: str | None) -> dict[str, str]:
        """See Provider."""
        return {"anthropic-version": _VERSION} | ({"x-api-key": key} if key else {})

    def path(self, request: Request) -> str:
        """See Provider."""
        return "/messages"

    def body(self, request: Request) -> dict[str, Any]:
        """See Provider."""
        refuse(request, _HONOURED, "anthropic")
        assert isinstance(request.prompt, Chat), "anything else is refused"
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self._model,
            "stream": True,
            "max_tokens": sampling.max_tokens or self._answer_tokens,
            **_conversation(request.prompt),
        }
        given: dict[str, tuple[Any, Any]] = {
            "temperature": (sampling.temperature, 1),
            "top_p": (sampling.top_p, 1),
            "top_k": (sampling.top_k, 0),
            "stop_sequences": (list(sampling.stop), []),
        }
        body |= {name: value for name, (value, default) in given.items() if value != default}
        if request.constraint is not None:
            body["output_config"] = {"format": {"type": "json_schema", "schema": schema_of(request.constraint)}}
        return body

    def answer(self, request: Request) -> Answer:
        """See Provider."""
        return _Answer(self._key)


def _conversation(chat: Chat) -> dict[str, Any]:
    """`system`, `messages` and `tools`."""
    first = next((i for i, message in enumerate(chat.messages) if not _is_system(message)), len(chat.messages))
    found: dict[str, Any] = {"messages": _turns(chat.messages[first:])}
    if first:
        found["system"] = [{"type": "text", "text": text_of(message)} for message in chat.messages[:first]]
    if chat.tools:
        found["tools"] = [
            {"name": tool.name, "description": tool.description, "input_schema": _input_schema(tool.parameters)}
            | ({"strict": True} if tool.strict else {})
            for tool in chat.tools
        ]
    return found


def _is_system(message: Message) -> bool:
    return message.role in ("system", "developer")


def _input_schema(parameters: Any) -> dict[str, Any]:
    return dict(parameters) or {"type": "object", "properties": {}}


def _turns(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """User and assistant by turns; results of tools belong to the user's."""
    if not messages:
        raise invalid("messages", "'messages' must hold a message that is not the system's")
    if messages[-1].role == "assistant":
        raise unsupported("messages", "'messages' cannot end with the assistant's: the provider would go on with it")
    turns: list[dict[str, Any]] = []
    for message in messages:
        if _is_system(message):
            raise unsupported("messages", "'messages' can have system messages at their beginning only, here")
        role = "assistant" if message.role == "assistant" else "user"
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += _blocks(message)
        else:
            turns.append({"role": role, "content": _blocks(message)})
    return turns


def _blocks(message: Message) -> list[dict[str, Any]]:
    blocks = [_block(part) for part in message.parts or ()]
    if message.role == "tool":
        return [{"type": "tool_result", "tool_use_id": message.tool_call_id or "", "content": blocks}]
    calls = [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments_of(call.arguments)}
        for call in message.tool_calls
    ]
    return blocks + calls


def _block(part: str | Image) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    data = base64.b64encode(part.data).decode()
    return {"type": "image", "source": {"type": "base64", "media_type": part.media_type, "data": data}}


class _Counts(msgspec.Struct):
    input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens: int | None = None


class _Start(msgspec.Struct):
    usage: _Counts | None = None


class _Block(msgspec.Struct):
    type: str = ""
    name: str = ""
    text: str = ""


class _Delta(msgspec.Struct):
    text: str = ""
    partial_json: str = ""
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Event(msgspec.Struct):
    type: str
    index: int = 0
    message: _Start | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Counts | None = None
    error: Any = None


_events = msgspec.json.Decoder(_Event)
_STOP = frozenset({"end_turn", "stop_sequence", "tool_use"})
_LENGTH = frozenset({"max_tokens", "model_context_window_exceeded"})


class _Answer(Answer):
    def __init__(self, key: str | None) -> None:
        super().__init__(1)
        self._key = key
        self._calls: dict[int, tuple[str, str]] = {}  # by block

    def read(self, event: str, data: str) -> list[Piece]:
        """See Answer."""
        found = decode(_events, data)
        text = ""
        match found.type:
            case "message_start" if found.message is not None:
                self._count(found.message.usage)
            case "content_block_start" if found.content_block is not None:
                text = found.content_block.text
                if found.content_block.type == "tool_use":
                    self._calls[found.index] = (found.content_block.name, "")
            case "content_block_delta" if found.delta is not None:
                text = found.delta.text
                if found.index in self._calls:
                    name, arguments = self._calls[found.index]
                    self._calls[found.index] = (name, arguments + found.delta.partial_json)
            case "content_block_stop" if found.index in self._calls:
                text = call_text(*self._calls.pop(found.index))
            case "message_delta":
                self._end(found)
            case "message_stop":
                self.done = True
            case "error":
                raise from_event(found.error, self._key)
            case _:
                pass  # `ping`, and what a newer version adds
        return [(0, text)] if text else []

    def _end(self, event: _Event) -> None:
        self._count(event.usage)
        if event.delta is not None and event.delta.stop_reason is not None:
            reason = end_reason(event.delta.stop_reason, _STOP, _LENGTH)
            self.ends[0] = End(reason, stop_string=event.delta.stop_sequence)

    def _count(self, counts: _Counts | None) -> None:
        """Later counts replace earlier ones; those that a message leaves out stay."""
        if counts is None:
            return
        old = self.usage
        prompt, cached = old.prompt, old.cached
        if counts.input_tokens is not None:
            cached = counts.cache_read_input_tokens or 0
            prompt = counts.input_tokens + cached + (counts.cache_creation_input_tokens or 0)
        self.usage = Usage(prompt, cached, old.completion if counts.output_tokens is None else counts.output_tokens)
