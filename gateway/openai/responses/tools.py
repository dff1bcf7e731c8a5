"""Tools of the Responses API, as those of chats. A namespace of functions is shown to the model as functions whose
names begin with it; tools that OpenAI runs itself cannot be run here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from gateway.openai import tools as chat
from gateway.openai.schema import converted
from mesh.errors import unsupported

# What becomes of tools that OpenAI runs itself: all are refused, searches of the web are left out, or all are.
HostedTools = Literal["refuse", "ignore-search", "ignore"]

_BETWEEN: Final = "__"
_SEARCH: Final = "web_search"  # with the names of its versions behind it


class FunctionTool(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A function that the model may call. What is only for tools that OpenAI runs is refused unless null."""

    type: str
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: Literal[False] | None = None
    allowed_callers: None = None
    output_schema: None = None


class NamespaceTool(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Functions under one name."""

    type: str
    name: str
    tools: list[dict[str, Any]]
    description: str | None = None


class AllowedName(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A function among those that may be called."""

    type: str
    name: str | None = None
    namespace: str | None = None


class ResponseChoice(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A function that must be called, or the functions that may be."""

    type: str
    name: str | None = None
    namespace: str | None = None
    mode: str | None = None
    tools: list[AllowedName] | None = None
    server_label: Any = None


class Toolbox:
    """The tools of one request: `functions` as chats have them, each with the place (`tools[0]`) that it came from;
    `shown`, as the response repeats them; and `left_out`, the kinds of those that the model is not offered."""

    def __init__(self, tools: Sequence[dict[str, Any]] | None, *, hosted: HostedTools = "refuse") -> None:
        """`hosted`: what becomes of tools that cannot be run here; refused is raising unsupported."""
        self.functions: list[chat.Tool] = []
        self.places: list[str] = []
        self.shown: list[dict[str, Any]] = []
        self.left_out: set[str] = set()
        self._hosted = hosted
        self._names: dict[str, tuple[str, str]] = {}
        for index, tool in enumerate(tools or ()):
            where = f"tools[{index}]"
            if tool.get("type") == "namespace":
                space = converted(NamespaceTool, tool, where)
                inner = [
                    shown
                    for place, each in enumerate(space.tools)
                    for shown in self._add(f"{where}.tools[{place}]", each, space.name)
                ]
                self.shown.append({**tool, "tools": inner})
            else:
                self.shown += self._add(where, tool, "")

    def split(self, name: str) -> Mapping[str, str]:
        """The fields of an answer's item that name a function."""
        space, own = self._names.get(name, ("", name))
        return {"name": own, "namespace": space} if space else {"name": own}

    def _add(self, where: str, given: dict[str, Any], namespace: str) -> list[dict[str, Any]]:
        """Take a function. Returns it as the response repeats it: strict only if the client has said so."""
        kind = str(given.get("type"))[:64]
        if kind != "function":
            if self._hosted == "ignore" or (self._hosted == "ignore-search" and kind.startswith(_SEARCH)):
                self.left_out.add(kind)
                return []
            text = f"'{where}.type' is '{kind}', a tool that this gateway cannot run: it takes function and"
            raise unsupported(f"{where}.type", f"{text} namespace, or leaves others out with --hosted-tools ignore")
        tool = converted(FunctionTool, given, where)
        name = joined(namespace, tool.name)
        self._names[name] = namespace, tool.name
        function = chat.Function(name, tool.description, tool.parameters, tool.strict)
        self.functions.append(chat.Tool("function", function))
        self.places.append(where)
        shown = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
        return [{"type": "function", **shown, "strict": bool(tool.strict)}]


def joined(namespace: str | None, name: str) -> str:
    """The name that the model knows a function by."""
    if not namespace:
        return name
    return namespace + name if namespace.endswith(_BETWEEN) else f"{namespace}{_BETWEEN}{name}"


def chat_choice(choice: str | ResponseChoice | None) -> chat.ToolChoice | None:
    """The same choice as chats have it. Raises unsupported for tools that cannot be run here."""
    if choice is None or isinstance(choice, str):
        return choice
    if choice.type == "function":
        return chat.NamedChoice("function", chat.FunctionName(joined(choice.namespace, choice.name or "")))
    if choice.type != "allowed_tools":
        text = f"'tool_choice.type' must be function or allowed_tools, not '{choice.type[:64]}'"
        raise unsupported("tool_choice.type", text)
    names = [
        chat.ToolName(each.type, chat.FunctionName(joined(each.namespace, each.name or "")))
        for each in choice.tools or ()
    ]
    return chat.NamedChoice("allowed_tools", allowed_tools=chat.AllowedTools(choice.mode or "auto", names))
