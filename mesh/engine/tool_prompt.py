"""Tools for models whose chat template has no place for them: told in words, with calls and results as text.

The marks are those of Hermes, which most models have seen and which `mesh.dialects` reads. A model that was never
trained on tools may still not use them well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Final

from mesh.engine.base import Chat, Image, Message, Tool, ToolCall

DIALECT: Final = "hermes"

_PROMPT: Final = """You can call functions. Each line below describes one, its parameters by a JSON schema:
{functions}
To call a function, write its name and its arguments as JSON, in this form:
<tool_call>
{{"name": "...", "arguments": {{...}}}}
</tool_call>
Then stop; you are given what it returned between <tool_response> and </tool_response>. You may call several \
functions, one behind the other. If no function is of use, answer in words."""


def in_words(chat: Chat, *, system: bool) -> Chat:
    """The conversation with its tools, calls and results as text; the tools in the system message, or, if not `system`,
    before the first message of the user."""
    prompt = tool_prompt(chat.tools)
    messages = list(_as_text(chat.messages))
    roles = ("system", "developer") if system else ("user",)
    place = next((place for place, message in enumerate(messages) if message.role in roles), None)
    if place is None:
        messages.insert(0, Message(roles[0], (prompt,)))
    else:
        parts = messages[place].parts or ()
        messages[place] = replace(messages[place], parts=(*parts, f"\n{prompt}") if system else (f"{prompt}\n", *parts))
    return replace(chat, messages=tuple(messages), tools=())


def tool_prompt(tools: Sequence[Tool]) -> str:
    """What the model is told of its tools."""
    lines = (
        json.dumps(
            {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
            ensure_ascii=False,
        )
        for tool in tools
    )
    return _PROMPT.format(functions="\n".join(lines))


def _as_text(messages: Sequence[Message]) -> Iterator[Message]:
    """Calls as the model writes them, and results that follow one another as one message of the user, since many
    templates want the roles in turn."""
    for is_result, group in groupby(messages, lambda message: message.role == "tool"):
        if is_result:
            yield Message("user", tuple(part for message in group for part in _result(message)))
            continue
        for message in group:
            if message.tool_calls:
                calls = (_call(call) for call in message.tool_calls)
                message = replace(message, parts=(*(message.parts or ()), *calls), tool_calls=())
            yield message


def _call(call: ToolCall) -> str:
    return f'<tool_call>\n{{"name": {json.dumps(call.name)}, "arguments": {call.arguments or "{}"}}}\n</tool_call>'


def _result(message: Message) -> tuple[str | Image, ...]:
    return ("<tool_response>", *(message.parts or ()), "</tool_response>")
