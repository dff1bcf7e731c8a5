"""From the Responses API to a chat: what was said becomes messages, and the options those of a chat."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from gateway.openai import chat_schema
from gateway.openai.chat_schema import ChatRequest
from gateway.openai.messages import ChatMessage, ContentPart, FunctionCall, ImageUrl, ToolCall
from gateway.openai.responses.items import Item, Part
from gateway.openai.responses.schema import (
    ReasoningOptions,
    ResponseQuestion,
    ResponseRequest,
    TextOptions,
    chat_format,
)
from gateway.openai.responses.tools import Toolbox, chat_choice, joined
from mesh.errors import MeshError, invalid

# Fields of the same name and meaning on both sides.
_SAME = (
    "stream",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "min_tokens",
    "ignore_eos",
    "priority",
    "cache_salt",
    "user",
    "safety_identifier",
    "prompt_cache_key",
)
# How fields of chats, or what they begin with, are called here.
_NAMES = {
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
    "tool_choice.function": "tool_choice",
    "tool_choice.allowed_tools": "tool_choice",
    "messages": "input",
}


@dataclass(slots=True)
class Origins:
    """What the parts of the chat are called in the request that it was made of."""

    names: dict[str, str] = field(default_factory=lambda: dict(_NAMES))

    def rename(self, param: str) -> str:
        """The request's own name of a field of the chat."""
        for known in sorted(self.names, key=len, reverse=True):
            if param == known or param.startswith((f"{known}.", f"{known}[")):
                return (self.names[known] + param[len(known) :]).replace("image_url.url", "image_url")
        return param

    @contextmanager
    def told(self) -> Generator[None]:
        """Errors that leave the block name the request's own fields."""
        try:
            yield
        except MeshError as error:
            own = self.rename(error.param) if error.param is not None else None
            if own == error.param or error.param is None:
                raise
            message = error.message.replace(f"'{error.param}", f"'{own}", 1)
            raise MeshError(error.kind, message, param=own, retry_after=error.retry_after) from error


def to_chat(question: ResponseQuestion, toolbox: Toolbox, messages: list[ChatMessage]) -> ChatRequest:
    """The chat, not checked yet."""
    text, reasoning = question.text or TextOptions(), question.reasoning or ReasoningOptions()
    # To say what is the default anyway needs no tools here.
    choice = None if question.tool_choice == "auto" and not toolbox.functions else question.tool_choice
    chat = ChatRequest(
        model=question.model,
        messages=messages,
        response_format=chat_format(question.text),
        tools=toolbox.functions or None,
        tool_choice=chat_choice(choice),
        parallel_tool_calls=question.parallel_tool_calls,
        reasoning_effort=reasoning.effort,
        verbosity=text.verbosity,
        chat_template_kwargs=question.chat_template_kwargs,
    )
    if isinstance(question, ResponseRequest):
        for name in _SAME:
            setattr(chat, name, getattr(question, name))
        chat.max_completion_tokens = question.max_output_tokens
        if question.with_logprobs:
            chat.logprobs, chat.top_logprobs = True, question.top_logprobs
    return chat


def checked(chat: ChatRequest, origins: Origins) -> ChatRequest:
    """The chat within its limits. Raises MeshError with the names of the request's own fields."""
    with origins.told():
        chat_schema.check(chat)
    return chat


class Talk:
    """Puts items together to messages: reasoning, text and calls of one turn are one message of the assistant."""

    def __init__(self, instructions: str | None, origins: Origins) -> None:
        self.messages: list[ChatMessage] = []
        self._origins = origins
        self._calls: set[str] = set()
        self._turn: ChatMessage | None = None
        if instructions is not None:
            self._add("instructions", ChatMessage("system", instructions))

    def add(self, items: Sequence[Item], param: str) -> None:
        """The next items; `param` is the list that they came in, for errors. Raises MeshError for an output of a call
        that there was not."""
        for index, item in enumerate(items):
            self._add_item(f"{param}[{index}]", item)

    def _add_item(self, where: str, item: Item) -> None:
        match item.kind:
            case "message" if item.role == "assistant":
                if self._turn is not None and (self._turn.content is not None or self._turn.tool_calls):
                    self._turn = None
                self._assistant(where).content = _text(item.content)
            case "message":
                self._add(where, ChatMessage(item.role or "", _content(item.content)))
            case "reasoning":
                self._turn = None
                self._assistant(where).reasoning = item.reasoning
            case "function_call":
                call_id = item.call_id or ""
                self._calls.add(call_id)
                call = FunctionCall(joined(item.namespace, item.name or ""), item.arguments or "{}")
                turn = self._assistant(where)
                turn.tool_calls = [*(turn.tool_calls or ()), ToolCall(call_id, call)]
            case _:
                self._add_output(where, item)

    def _add_output(self, where: str, item: Item) -> None:
        if item.call_id not in self._calls:
            text = f"'{where}.call_id' is '{(item.call_id or '')[:80]}', and no function_call before it has that"
            raise invalid(f"{where}.call_id", text)
        self._add(where, ChatMessage("tool", _content(item.output), tool_call_id=item.call_id))

    def _assistant(self, where: str) -> ChatMessage:
        """The assistant's message that is being put together."""
        if self._turn is None:
            message = ChatMessage("assistant")
            self._add(where, message)
            self._turn = message
        return self._turn

    def _add(self, where: str, message: ChatMessage) -> None:
        self._turn = None
        self._origins.names[f"messages[{len(self.messages)}]"] = where
        self.messages.append(message)


def _text(content: str | list[Part] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text or part.refusal or "" for part in content)


def _content(content: str | list[Part] | None) -> str | list[ContentPart]:
    if content is None or isinstance(content, str):
        return content or ""
    if all(part.type != "input_image" for part in content):
        return _text(content) if len(content) == 1 else [ContentPart("text", part.text) for part in content]
    return [
        ContentPart("image_url", image_url=ImageUrl(part.image_url or "", part.detail))
        if part.type == "input_image"
        else ContentPart("text", part.text)
        for part in content
    ]
