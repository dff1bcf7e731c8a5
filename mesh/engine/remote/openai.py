"""OpenAI's chat completions, and text completions where a server still has them: OpenAI, vLLM, llama.cpp, Ollama, a
gateway of this mesh."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import msgspec

from mesh.engine.base import Chat, FinishReason, Image, Message, Request, Text
from mesh.engine.remote.answer import Answer, End, Piece, Usage, call_text, decode, end_reason, withheld
from mesh.engine.remote.asked import refuse
from mesh.engine.remote.failure import from_event
from mesh.engine.remote.options import RemoteOptions
from mesh.engine.remote.provider import schema_of

_PLAIN = ("temperature", "top_p", "frequency_penalty", "presence_penalty", "n")
_HONOURED = frozenset(
    (
        *_PLAIN,
        *("seed", "max_tokens", "stop", "logit_bias", "json_object", "json_schema", "text", "images", "images.detail"),
        *("tools", "messages.name", "messages.tool_calls", "messages.tool_call_id"),
    )
)


class OpenAI:
    """See Provider."""

    capabilities = frozenset({"chat", "completion", "constraint", "vision", "tools"})

    def __init__(self, options: RemoteOptions) -> None:
        self._model = options.model
        self._key = options.key
        self._extensions = options.extensions
        # OpenAI's newer models know the one name alone, other servers often the other one alone.
        self._limit = "max_completion_tokens" if options.base_url is None else "max_tokens"

    def headers(self, key: str | None) -> dict[str, str]:
        """See Provider."""
        return {"authorization": f"Bearer {key}"} if key else {}

    def path(self, request: Request) -> str:
        """See Provider."""
        return "/chat/completions" if isinstance(request.prompt, Chat) else "/completions"

    def body(self, request: Request) -> dict[str, Any]:
        """See Provider."""
        refuse(request, _HONOURED | self._extensions, "openai")
        body: dict[str, Any] = {"model": self._model, "stream": True, "stream_options": {"include_usage": True}}
        self._add_prompt(body, request)
        self._add_sampling(body, request)
        if request.constraint is not None:
            body["response_format"] = {"type": "json_object"}
            if request.constraint.kind == "json_schema":
                # Only a strict schema is a promise.
                wanted = {"name": "answer", "schema": schema_of(request.constraint), "strict": True}
                body["response_format"] = {"type": "json_schema", "json_schema": wanted}
        return body

    def _add_prompt(self, body: dict[str, Any], request: Request) -> None:
        prompt = request.prompt
        if isinstance(prompt, Text):
            body["prompt"] = prompt.text
        if not isinstance(prompt, Chat):
            return
        body["messages"] = [_message(message) for message in prompt.messages]
        if prompt.tools:
            body["tools"] = [
                {
                    "type": "function",
                    "function": {
                        "name": tool.name,
                        "description": tool.description,
                        "parameters": dict(tool.parameters),
                        "strict": tool.strict,
                    },
                }
                for tool in prompt.tools
            ]

    def _add_sampling(self, body: dict[str, Any], request: Request) -> None:
        sampling = request.sampling
        # What is at its default here is at the same default there.
        for name in _PLAIN:
            value = getattr(sampling, name)
            if value != (0 if name.endswith("penalty") else 1):
                body[name] = value
        if not sampling.drawn_seed:
            body["seed"] = sampling.seed
        if sampling.max_tokens is not None:
            limit = self._limit if isinstance(request.prompt, Chat) else "max_tokens"
            body[limit] = sampling.max_tokens
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if sampling.logit_bias:
            body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
        for name in sorted(self._extensions - {"cache_salt"}):
            value = getattr(sampling, name)
            if value:
                body[name] = list(value) if isinstance(value, tuple) else value  # pyright: ignore[reportUnknownArgumentType]
        if request.cache_salt:
            body["cache_salt"] = request.cache_salt

    def answer(self, request: Request) -> Answer:
        """See Provider."""
        return _Answer(request.sampling.n, self._key)


def _message(message: Message) -> dict[str, Any]:
    result: dict[str, Any] = {"role": message.role, "content": _content(message)}
    if message.name:
        result["name"] = message.name
    if message.tool_call_id:
        result["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        result["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments or "{}"}}
            for call in message.tool_calls
        ]
    return result


def _content(message: Message) -> str | list[dict[str, Any]] | None:
    if message.parts is None:
        return None if message.tool_calls else ""
    if len(message.parts) == 1 and isinstance(message.parts[0], str):
        return message.parts[0]
    return [_part(part) for part in message.parts]


def _part(part: str | Image) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    url = f"data:{part.media_type};base64,{base64.b64encode(part.data).decode()}"
    return {"type": "image_url", "image_url": {"url": url, "detail": part.detail}}


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_chunks = msgspec.json.Decoder(_Chunk)
_STOP = frozenset({"stop", "tool_calls", "function_call"})
_LENGTH = frozenset({"length"})


@dataclass(slots=True)
class _Call:
    """A function call as far as it has come."""

    index: int | None
    id: str
    name: str = ""
    arguments: str = ""


class _Answer(Answer):
    def __init__(self, choices: int, key: str | None) -> None:
        super().__init__(choices)
        self._key = key
        self._calls: dict[int, list[_Call]] = {}  # by choice

    def read(self, event: str, data: str) -> list[Piece]:
        """See Answer."""
        if data == "[DONE]":
            self.done = True
            return []
        chunk = decode(_chunks, data)
        if chunk.error is not None:
            raise from_event(chunk.error, self._key)
        if chunk.usage is not None:
            details = chunk.usage.prompt_tokens_details
            cached = details.cached_tokens if details is not None else None
            self.usage = Usage(chunk.usage.prompt_tokens or 0, cached or 0, chunk.usage.completion_tokens or 0)
        pieces: list[Piece] = []
        for choice in chunk.choices or ():
            self._read_choice(choice, pieces)
        return pieces

    def _read_choice(self, choice: _Choice, pieces: list[Piece]) -> None:
        index = self.check_choice(choice.index)
        delta = choice.delta
        text = choice.text or ""
        if delta is not None:
            if delta.refusal:
                raise withheld(delta.refusal)
            text += delta.content or ""
            for call in delta.tool_calls or ():
                self._read_call(index, call)
        if choice.finish_reason:  # some servers send an empty one with each piece
            text += "".join(call_text(call.name, call.arguments) for call in self._calls.pop(index, ()))
            self.ends[index] = End(self._reason(choice.finish_reason))
        if text:
            pieces.append((index, text))

    def _read_call(self, choice: int, call: _ToolCall) -> None:
        """A call comes in pieces: its name first, then its arguments bit by bit.

        Some servers tell no index, or the same for all calls: another id begins another call, and so does a name where
        nothing else tells.
        """
        calls = self._calls.setdefault(choice, [])
        function = call.function or _Function()
        found = next((each for each in reversed(calls) if call.index is None or each.index == call.index), None)
        other_id = found is not None and call.id and found.id and call.id != found.id
        if found is None or other_id or (call.index is None and not call.id and function.name):
            found = _Call(call.index, call.id or "")
            calls.append(found)
        found.name += function.name or ""
        found.arguments += function.arguments or ""

    def _reason(self, word: str) -> FinishReason:
        return end_reason(word, _STOP, _LENGTH)
