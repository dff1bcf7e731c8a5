"""Tools of a chat request: what may be called, what must be, and their limits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from mesh.errors import invalid, unsupported

MAX_TOOLS: Final = 128
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MODES: Final = ("none", "auto", "required")


class Function(msgspec.Struct, forbid_unknown_fields=True):
    """A function that the model may call; `parameters` is a JSON schema, an object without properties if missing."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, forbid_unknown_fields=True):
    """A tool: `function`. Others are known in order to be refused."""

    type: str
    function: Function | None = None
    custom: Any = None


class FunctionName(msgspec.Struct, forbid_unknown_fields=True):
    """A function by its name."""

    name: str


class ToolName(msgspec.Struct, forbid_unknown_fields=True):
    """A tool by its name."""

    type: str
    function: FunctionName | None = None
    custom: Any = None


class AllowedTools(msgspec.Struct, forbid_unknown_fields=True):
    """Some of the tools, of which the model may call any (auto) or must call at least one (required)."""

    mode: str
    tools: list[ToolName]


class NamedChoice(msgspec.Struct, forbid_unknown_fields=True):
    """A tool that must be called, or the tools that may be."""

    type: str
    function: FunctionName | None = None
    allowed_tools: AllowedTools | None = None
    custom: Any = None


ToolChoice = str | NamedChoice


class Allowed(msgspec.Struct, frozen=True):
    """What a request comes to: its functions as far as they may be called, `mode` none, auto or required."""

    functions: list[Function]
    mode: str


def allowed(tools: Sequence[Tool] | None, choice: ToolChoice | None) -> Allowed:
    """The functions that may be called, and whether one must be; the request must have been checked."""
    functions = [tool.function for tool in tools or () if tool.function is not None]
    if choice is None or isinstance(choice, str):
        return Allowed(functions, choice or "auto")
    if choice.allowed_tools is not None:
        names = {each.function.name for each in choice.allowed_tools.tools if each.function is not None}
        return Allowed([each for each in functions if each.name in names], choice.allowed_tools.mode)
    return Allowed(functions, "required")


def named(choice: ToolChoice | None) -> str:
    """The function that must be called; empty if it is none in particular."""
    return choice.function.name if isinstance(choice, NamedChoice) and choice.function is not None else ""


def check_tools(tools: Sequence[Tool] | None, choice: ToolChoice | None) -> None:
    """The limits. Raises MeshError naming field, limit and value."""
    names: set[str] = set()
    if tools is not None and not 1 <= len(tools) <= MAX_TOOLS:
        raise invalid("tools", f"'tools' must hold 1 to {MAX_TOOLS} tools, not {len(tools)}")
    for index, tool in enumerate(tools or ()):
        where = f"tools[{index}]"
        name = _function_name(where, tool.type, tool.function)
        if not _NAME.fullmatch(name):
            text = f"'{where}.function.name' must have 1 to 64 letters, digits, underscores and dashes"
            raise invalid(f"{where}.function.name", f"{text}, not '{name[:80]}'")
        if name in names:
            raise invalid(f"{where}.function.name", f"'{where}.function.name' is '{name}', as another tool's")
        names.add(name)
    if choice is not None:
        _check_choice(names, choice)


def _function_name(where: str, kind: str, function: Function | FunctionName | None) -> str:
    if kind != "function":
        raise unsupported(f"{where}.type", f"'{where}.type' must be function, not '{kind[:64]}'")
    if function is None:
        raise invalid(f"{where}.function", f"'{where}.function' is required with its type")
    return function.name


def _check_choice(names: set[str], choice: ToolChoice) -> None:
    if not names and choice != "none":
        raise invalid("tool_choice", "'tool_choice' needs 'tools'")
    if isinstance(choice, str):
        if choice not in _MODES:
            text = f"'tool_choice' must be none, auto, required or name a function, not '{choice[:64]}'"
            raise invalid("tool_choice", text)
        return
    if choice.type == "allowed_tools":
        if choice.allowed_tools is None:
            raise invalid("tool_choice.allowed_tools", "'tool_choice.allowed_tools' is required with its type")
        _check_allowed(names, choice.allowed_tools)
        return
    _check_known(names, "tool_choice", _function_name("tool_choice", choice.type, choice.function))


def _check_allowed(names: set[str], given: AllowedTools) -> None:
    where = "tool_choice.allowed_tools"
    if given.mode not in ("auto", "required"):
        raise invalid(f"{where}.mode", f"'{where}.mode' must be auto or required, not '{given.mode[:64]}'")
    if not given.tools:
        raise invalid(f"{where}.tools", f"'{where}.tools' must hold at least one tool")
    for index, tool in enumerate(given.tools):
        _check_known(names, where, _function_name(f"{where}.tools[{index}]", tool.type, tool.function))


def _check_known(names: set[str], param: str, name: str) -> None:
    if name not in names:
        raise invalid(param, f"'{param}' names the function '{name[:80]}', which is not one of 'tools'")
