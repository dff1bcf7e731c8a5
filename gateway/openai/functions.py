"""Functions in the form that they had before tools: put where tools are, and answered in their own form."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.openai.messages import ChatMessage, ToolCall
from gateway.openai.tools import Function, FunctionName, NamedChoice, Tool, ToolChoice, check_tools
from mesh.errors import MeshError, invalid

FunctionChoice = str | FunctionName


def tools_of(functions: Sequence[Function], choice: FunctionChoice | None) -> tuple[list[Tool], ToolChoice | None]:
    """The tools, and which may be called. Raises MeshError naming field, limit and value."""
    tools = [Tool(type="function", function=each) for each in functions]
    named = NamedChoice(type="function", function=choice) if isinstance(choice, FunctionName) else choice
    if isinstance(named, str) and named not in ("none", "auto"):
        text = f"'function_call' must be none, auto or name a function, not '{named[:64]}'"
        raise invalid("function_call", text)
    try:
        check_tools(tools, named)
    except MeshError as error:
        raise MeshError(error.kind, _renamed(error.message), param=_renamed(error.param or "")) from None
    return tools, named


def take_calls(messages: Sequence[ChatMessage]) -> None:
    """Put calls of functions where those of tools are, and what functions returned into messages of tools."""
    made = 0
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if message.function_call is not None:
            if message.tool_calls or message.role != "assistant":
                text = f"'{where}.function_call' needs the role assistant, and excludes 'tool_calls'"
                raise invalid(f"{where}.function_call", text)
            made += 1
            message.tool_calls = [ToolCall(id=_call_id(made), function=message.function_call)]
            message.function_call = None
        elif message.role == "function":
            if not message.name or not made:
                text = f"'{where}' of role function needs a 'name', and a message with 'function_call' before it"
                raise invalid(f"{where}.name", text)
            message.role, message.tool_call_id = "tool", _call_id(made)


def _call_id(number: int) -> str:
    # Nine letters and digits, as the strictest templates want them.
    return f"func{number:05d}"


def _renamed(text: str) -> str:
    return text.replace("tool_choice", "function_call").replace(".function.", ".").replace("tools", "functions")
