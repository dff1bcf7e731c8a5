"""From Anthropic's request to OpenAI's, which the gateway then treats as any chat: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from gateway.anthropic.content import (
    Base64Image,
    DocumentBlock,
    ImageBlock,
    MessageParam,
    RedactedThinkingBlock,
    Shown,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from gateway.anthropic.schema import CountRequest, MessagesRequest, ToolChoice, ToolParam
from gateway.openai.chat_schema import ChatRequest
from gateway.openai.images import Where
from gateway.openai.messages import ChatMessage, ContentPart, FunctionCall, ImageUrl, ToolCall
from gateway.openai.schema import JsonSchemaFormat, ResponseFormat
from gateway.openai.tools import Function, FunctionName, NamedChoice, Tool
from gateway.openai.tools import ToolChoice as OpenAIChoice

# What ids of calls begin with for clients; chat templates are given the rest, as some take 9 characters alone.
ID_PREFIX: Final = "toolu_"
_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}


@dataclass
class Translated:
    """A chat, and what its images are called in the request that it was made of."""

    chat: ChatRequest
    image_names: dict[Where, str] = field(default_factory=dict[Where, str])


def to_chat(request: CountRequest) -> Translated:
    """The same request of OpenAI's chat API, which was checked in Anthropic's words."""
    messages = _Messages()
    if request.system:
        blocks = [TextBlock(request.system)] if isinstance(request.system, str) else request.system
        messages.add("system", "system", blocks)
    for index, message in enumerate(request.messages):
        messages.add_message(f"messages[{index}].content", message)
    chat = ChatRequest(
        model=request.model,
        messages=messages.found,
        tools=[_tool(tool) for tool in request.tools] if request.tools else None,
        tool_choice=_choice(request.tool_choice) if request.tools and request.tool_choice else None,
        parallel_tool_calls=False if request.tool_choice and request.tool_choice.disable_parallel_tool_use else None,
        response_format=_format(request),
        include_reasoning=request.thinks,
        # A conversation that ends with the assistant's words has them gone on with.
        continue_final_message=True if request.messages[-1].role == "assistant" else None,
    )
    if isinstance(request, MessagesRequest):
        chat.stream = request.stream
        chat.max_tokens = request.max_tokens
        chat.stop = request.stop_sequences
        chat.temperature, chat.top_p, chat.top_k = request.temperature, request.top_p, request.top_k
    return Translated(chat, messages.image_names)


def hints(request: CountRequest) -> dict[str, Any]:
    """What is said about thinking, for templates that read it by these names."""
    found: dict[str, Any] = {"enable_thinking": request.thinks, "thinking": request.thinks}
    if request.thinking is not None and request.thinking.budget_tokens is not None:
        found["thinking_budget"] = request.thinking.budget_tokens
    if request.output_config is not None and request.output_config.effort is not None:
        found["reasoning_effort"] = request.output_config.effort
    return found


class _Messages:
    """Gathers the messages of a chat. A user's message with results of calls becomes several."""

    def __init__(self) -> None:
        self.found: list[ChatMessage] = []
        self.image_names: dict[Where, str] = {}

    def add_message(self, where: str, message: MessageParam) -> None:
        """The message whose content is called `where`."""
        if message.role == "assistant":
            self.found.append(_assistant(message))
            return
        shown: list[tuple[str, Shown]] = []
        for place, block in enumerate(message.blocks):
            name = f"{where}[{place}]"
            if isinstance(block, ToolResultBlock):
                self._flush(message.role, shown)
                self._add_result(name, block)
            elif isinstance(block, TextBlock | ImageBlock | DocumentBlock):
                shown.append((name, block))
        self._flush(message.role, shown)

    def add(self, role: str, where: str, blocks: Sequence[Shown], *, call: str | None = None) -> None:
        """A message of blocks that are called `where`."""
        self._add(role, [(f"{where}[{place}]", block) for place, block in enumerate(blocks)], call)

    def _flush(self, role: str, shown: list[tuple[str, Shown]]) -> None:
        if shown:
            self._add(role, shown, None)
            shown.clear()

    def _add_result(self, name: str, result: ToolResultBlock) -> None:
        blocks = result.content or ""
        if isinstance(blocks, str):
            blocks = [TextBlock(blocks)]
        self.add("tool", f"{name}.content", blocks, call=result.tool_use_id.removeprefix(ID_PREFIX))

    def _add(self, role: str, blocks: Iterable[tuple[str, Shown]], call: str | None) -> None:
        parts: list[ContentPart] = []
        for name, block in blocks:
            if isinstance(block, ImageBlock):
                self.image_names[len(self.found), len(parts)] = f"{name}.source"
            parts.append(_part(block))
        self.found.append(ChatMessage(role, parts, tool_call_id=call))


def _part(block: Shown) -> ContentPart:
    if isinstance(block, ImageBlock):
        source = block.source
        inline = isinstance(source, Base64Image)
        url = f"data:{source.media_type};base64,{source.data}" if inline else source.url
        return ContentPart("image_url", image_url=ImageUrl(url))
    if isinstance(block, DocumentBlock):
        texts = [block.title, block.context, block.source.data]
        return ContentPart("text", text="\n".join(text for text in texts if text))
    return ContentPart("text", text=block.text)


def _assistant(message: MessageParam) -> ChatMessage:
    parts: list[ContentPart] = []
    calls: list[ToolCall] = []
    thoughts: list[str] = []
    for block in message.blocks:
        if isinstance(block, ThinkingBlock):
            thoughts.append(block.thinking)
        elif isinstance(block, ToolUseBlock):
            arguments = msgspec.json.encode(block.input).decode()
            calls.append(ToolCall(block.id.removeprefix(ID_PREFIX), FunctionCall(block.name, arguments)))
        elif not isinstance(block, RedactedThinkingBlock | ToolResultBlock):
            parts.append(_part(block))
    content = parts or (None if calls else "")
    return ChatMessage("assistant", content, tool_calls=calls or None, reasoning="\n".join(filter(None, thoughts)))


def _tool(tool: ToolParam) -> Tool:
    return Tool("function", Function(tool.name, tool.description, tool.input_schema, tool.strict))


def _choice(choice: ToolChoice) -> OpenAIChoice:
    if choice.type == "tool":
        return NamedChoice("function", FunctionName(choice.name or ""))
    return _CHOICES[choice.type]


def _format(request: CountRequest) -> ResponseFormat | None:
    wanted = request.format
    return None if wanted is None else ResponseFormat("json_schema", JsonSchemaFormat("answer", wanted.schema))
