"""Google's Gemini API: generateContent, streamed."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote

import msgspec

from mesh.engine.base import Chat, Image, Message, Request
from mesh.engine.remote.answer import Answer, End, Piece, Usage, call_text, decode, end_reason, withheld
from mesh.engine.remote.asked import refuse
from mesh.engine.remote.failure import from_event
from mesh.engine.remote.options import RemoteOptions
from mesh.engine.remote.provider import arguments_of, schema_of, text_of
from mesh.errors import invalid, out_of_range, unsupported

_INT32 = 2**31
_HONOURED = frozenset(
    (
        *("temperature", "top_p", "top_k", "max_tokens", "stop", "n", "seed", "frequency_penalty", "presence_penalty"),
        *("json_object", "json_schema", "images", "tools", "messages.tool_calls", "messages.tool_call_id"),
    )
)


class Google:
    """See Provider."""

    capabilities = frozenset({"chat", "constraint", "vision", "tools"})

    def __init__(self, options: RemoteOptions) -> None:
        self._model = options.model
        self._key = options.key

    def headers(self, key: str | None) -> dict[str, str]:
        """See Provider."""
        return {"x-goog-api-key": key} if key else {}

    def path(self, request: Request) -> str:
        """See Provider."""
        return f"/models/{quote(self._model, safe='')}:streamGenerateContent?alt=sse"

    def body(self, request: Request) -> dict[str, Any]:
        """See Provider."""
        refuse(request, _HONOURED, "google")
        assert isinstance(request.prompt, Chat), "anything else is refused"
        return {"generationConfig": _config(request), **_conversation(request.prompt)}

    def answer(self, request: Request) -> Answer:
        """See Provider."""
        return _Answer(request.sampling.n, self._key)


def _config(request: Request) -> dict[str, Any]:
    sampling = request.sampling
    given: dict[str, tuple[Any, Any]] = {
        "temperature": (sampling.temperature, 1),
        "topP": (sampling.top_p, 1),
        "topK": (sampling.top_k, 0),
        "maxOutputTokens": (sampling.max_tokens, None),
        "stopSequences": (list(sampling.stop), []),
        "candidateCount": (sampling.n, 1),
        "frequencyPenalty": (sampling.frequency_penalty, 0),
        "presencePenalty": (sampling.presence_penalty, 0),
    }
    config = {name: value for name, (value, default) in given.items() if value != default}
    if not sampling.drawn_seed:
        if not -_INT32 <= sampling.seed < _INT32:
            raise out_of_range("seed", sampling.seed, -_INT32, _INT32 - 1)
        config["seed"] = sampling.seed
    if request.constraint is not None:
        config["responseMimeType"] = "application/json"
        config["responseJsonSchema"] = schema_of(request.constraint)
    return config


def _conversation(chat: Chat) -> dict[str, Any]:
    """`systemInstruction`, `contents` and `tools`."""
    first = next((i for i, message in enumerate(chat.messages) if not _is_system(message)), len(chat.messages))
    found: dict[str, Any] = {"contents": _contents(chat.messages[first:])}
    if first:
        found["systemInstruction"] = {"parts": [{"text": text_of(message)} for message in chat.messages[:first]]}
    if chat.tools:
        if any(tool.strict for tool in chat.tools):
            raise unsupported("tools", "'tools' cannot be strict with the provider google")
        declarations = [
            {"name": tool.name, "description": tool.description, "parametersJsonSchema": dict(tool.parameters)}
            for tool in chat.tools
        ]
        found["tools"] = [{"functionDeclarations": declarations}]
    return found


def _is_system(message: Message) -> bool:
    return message.role in ("system", "developer")


def _contents(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    if not messages:
        raise invalid("messages", "'messages' must hold a message that is not the system's")
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    contents: list[dict[str, Any]] = []
    for message in messages:
        if _is_system(message):
            raise unsupported("messages", "'messages' can have system messages at their beginning only, here")
        role = "model" if message.role == "assistant" else "user"
        parts = _parts(message, names)
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += parts
        else:
            contents.append({"role": role, "parts": parts})
    return contents


def _parts(message: Message, names: dict[str, str]) -> list[dict[str, Any]]:
    if message.role == "tool":
        name = names.get(message.tool_call_id or "")
        if name is None:
            raise invalid(
                "messages", f"'messages' holds a result of the call '{message.tool_call_id}' that is not there"
            )
        return [{"functionResponse": {"name": name, "response": {"result": text_of(message)}}}]
    calls = [{"functionCall": {"name": call.name, "args": arguments_of(call.arguments)}} for call in message.tool_calls]
    return [_part(part) for part in message.parts or ()] + calls


def _part(part: str | Image) -> dict[str, Any]:
    if isinstance(part, str):
        return {"text": part}
    return {"inlineData": {"mimeType": part.media_type, "data": base64.b64encode(part.data).decode()}}


class _FunctionCall(msgspec.Struct):
    name: str = ""
    args: dict[str, Any] | None = None


class _Part(msgspec.Struct, rename="camel"):
    text: str = ""
    thought: bool = False
    function_call: _FunctionCall | None = None


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, rename="camel"):
    index: int = 0
    content: _Content | None = None
    finish_reason: str | None = None


class _Counts(msgspec.Struct, rename="camel"):
    prompt_token_count: int = 0
    cached_content_token_count: int = 0
    candidates_token_count: int = 0
    thoughts_token_count: int = 0


class _Feedback(msgspec.Struct, rename="camel"):
    block_reason: str | None = None


class _Chunk(msgspec.Struct, rename="camel"):
    candidates: list[_Candidate] | None = None
    usage_metadata: _Counts | None = None
    prompt_feedback: _Feedback | None = None
    error: Any = None


_chunks = msgspec.json.Decoder(_Chunk)
_STOP = frozenset({"STOP"})
_LENGTH = frozenset({"MAX_TOKENS"})


class _Answer(Answer):
    """There is no last event: the stream ends once every candidate has its reason."""

    def __init__(self, choices: int, key: str | None) -> None:
        super().__init__(choices)
        self._key = key

    def read(self, event: str, data: str) -> list[Piece]:
        """See Answer."""
        chunk = decode(_chunks, data)
        if chunk.error is not None:
            raise from_event(chunk.error, self._key)
        if chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason:
            raise withheld(chunk.prompt_feedback.block_reason)
        counts = chunk.usage_metadata
        if counts is not None:
            completion = counts.candidates_token_count + counts.thoughts_token_count
            self.usage = Usage(counts.prompt_token_count, counts.cached_content_token_count, completion)
        pieces = [piece for candidate in chunk.candidates or () if (piece := self._read(candidate))[1]]
        self.done = self.complete
        return pieces

    def _read(self, candidate: _Candidate) -> Piece:
        index = self.check_choice(candidate.index)
        parts = (candidate.content.parts or ()) if candidate.content is not None else ()
        text = "".join(_text(part) for part in parts)
        if candidate.finish_reason:
            self.ends[index] = End(end_reason(candidate.finish_reason, _STOP, _LENGTH))
        return index, text


def _text(part: _Part) -> str:
    if part.function_call is not None:
        return call_text(part.function_call.name, json.dumps(part.function_call.args or {}, ensure_ascii=False))
    return "" if part.thought else part.text
