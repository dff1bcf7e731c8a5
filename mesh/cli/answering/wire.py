"""Answers from a worker or an engine, which speak the messages of mesh.v1."""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Callable, Generator, Mapping
from typing import Any

from mesh.answer import Event as WireEvent
from mesh.cli.answering.endpoint import Body, End, Event, Piece
from mesh.client.request import build
from mesh.dialects import Content, Dialect, Part, Reader, Reasoning, read
from mesh.errors import invalid
from mesh.v1 import inference_pb2 as pb

_OPTIONS = frozenset({"reasoning_effort", "chat_template_kwargs"})


class WireEndpoint:
    """An Endpoint over whatever runs a GenerateRequest: `run` yields its events, and ends it when it is closed."""

    def __init__(
        self,
        where: str,
        run: Callable[[pb.GenerateRequest], Generator[WireEvent]],
        models: Callable[[], list[str]],
        close: Callable[[], None],
    ) -> None:
        self.where = where
        self._run = run
        self.models = models
        self.close = close

    def answer(self, body: Body) -> Generator[Event]:
        """See Endpoint."""
        answer = _Answer()
        with contextlib.closing(self._run(to_request(body))) as events:
            for event in events:
                yield from answer.take(event)


class _Answer:
    """Tells the reasoning in an answer from the rest, as the model's dialect marks it."""

    def __init__(self) -> None:
        self._reader: Reader | None = None
        self._reason = "stop"

    def take(self, event: WireEvent) -> Generator[Event]:
        match event:
            case pb.Started():
                dialect = Dialect(event.markup.tool_parser, event.markup.reasoning_parser)
                self._reader = read(dialect, tools=None, reasoned=True, prompt_end=event.markup.prompt_end)
            case pb.Delta() if event.text:
                yield from _pieces(self._reader.feed(event.text) if self._reader else [Content(event.text)])
            case pb.ChoiceFinished():
                yield from _pieces(self._reader.finish() if self._reader else [])
                self._reason = "length" if event.reason == pb.FINISH_REASON_LENGTH else "stop"
            case pb.Finished():
                yield End(self._reason, event.usage.prompt_tokens, event.usage.completion_tokens)
            case _:
                pass


def _pieces(parts: list[Part]) -> Generator[Piece]:
    for part in parts:
        if isinstance(part, Content | Reasoning) and part.text:
            yield Piece(part.text, reasoning=isinstance(part, Reasoning))


def to_request(body: Body) -> pb.GenerateRequest:
    """The request of a chat. Raises MeshError naming what it cannot hold."""
    given = {name: value for name, value in body.items() if name not in ("model", "messages", *_OPTIONS)}
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]
    try:
        request = build(body["model"], [_message(message) for message in body["messages"]], given)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError) as error:  # an unknown option, or a number that has no place in its field
        raise invalid("parameter", f"a parameter cannot be used: {error}") from None
    request.chat.reasoning_effort = body.get("reasoning_effort", "")
    request.chat.template_arguments.update(body.get("chat_template_kwargs", {}))
    request.output.markup = True
    return request


def _message(given: Mapping[str, Any]) -> pb.ChatMessage:
    content = given.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    return pb.ChatMessage(
        role=given["role"],
        parts=[_part(part) for part in parts],
        name=given.get("name") or "",
        reasoning=given.get("reasoning_content") or given.get("reasoning") or "",
        tool_call_id=given.get("tool_call_id") or "",
        tool_calls=[
            pb.ToolCall(id=call["id"], name=call["function"]["name"], arguments_json=call["function"]["arguments"])
            for call in given.get("tool_calls") or ()
        ],
    )


def _part(given: Mapping[str, Any]) -> pb.ContentPart:
    if given.get("type") == "text":
        return pb.ContentPart(text=given["text"])
    url = given.get("image_url", {}).get("url", "")
    kind, _, encoded = url.removeprefix("data:").partition(";base64,")
    if given.get("type") != "image_url" or not url.startswith("data:") or not encoded:
        raise invalid("messages", "without a gateway a message holds texts, and images by value (data:…;base64,…)")
    try:
        data = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise invalid("messages", f"an image is no base64: {error}") from None
    return pb.ContentPart(image=pb.Image(data=data, media_type=kind))
