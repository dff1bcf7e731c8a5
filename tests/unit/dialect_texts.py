"""Answers as models of each family write them: the test's own knowledge of the formats."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from mesh.dialects import Dialect

Calls = Sequence[tuple[str, dict[str, Any]]]

TOOLS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "fine": {"type": ["boolean", "null"]}},
        "required": ["city"],
    },
    "write-file": {"type": "object", "properties": {"text": {"type": "string"}, "tags": {"type": "array"}}},
}


def _object(name: str, arguments: dict[str, Any], key: str = "arguments") -> str:
    return json.dumps({"name": name, key: arguments}, ensure_ascii=False)


def hermes(calls: Calls) -> str:
    return "\n".join(f"<tool_call>\n{_object(*call)}\n</tool_call>" for call in calls)


def listed(mark: str, end: str = "") -> Callable[[Calls], str]:
    return lambda calls: f"{mark}[{', '.join(_object(*call) for call in calls)}]{end}"


def llama(calls: Calls) -> str:
    return "; ".join(_object(name, arguments, "parameters") for name, arguments in calls)


def mistral(calls: Calls) -> str:
    return "".join(f"[TOOL_CALLS]{name}[ARGS]{json.dumps(arguments)}" for name, arguments in calls)


def deepseek(calls: Calls, *, fenced: bool = True) -> str:
    def one(name: str, arguments: dict[str, Any]) -> str:
        text = json.dumps(arguments)
        return f"function<｜tool▁sep｜>{name}\n```json\n{text}\n```" if fenced else f"{name}<｜tool▁sep｜>{text}"

    inner = "\n".join(f"<｜tool▁call▁begin｜>{one(*call)}<｜tool▁call▁end｜>" for call in calls)
    return f"<｜tool▁calls▁begin｜>{inner}<｜tool▁calls▁end｜>"


def harmony(calls: Calls) -> str:
    (name, arguments), *_ = calls
    head = f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
    return head + json.dumps(arguments) + "<|call|>"


def glm(calls: Calls) -> str:
    def pair(key: str, value: Any) -> str:
        text = value if isinstance(value, str) else json.dumps(value)
        return f"\n<arg_key>{key}</arg_key>\n<arg_value>{text}</arg_value>"

    return "\n".join(
        f"<tool_call>{name}{''.join(pair(*item) for item in arguments.items())}\n</tool_call>"
        for name, arguments in calls
    )


def qwen_xml(calls: Calls) -> str:
    def pair(key: str, value: Any) -> str:
        text = value if isinstance(value, str) else json.dumps(value)
        return f"<parameter={key}>\n{text}\n</parameter>\n"

    return "\n".join(
        f"<tool_call>\n<function={name}>\n{''.join(pair(*item) for item in arguments.items())}</function>\n</tool_call>"
        for name, arguments in calls
    )


def pythonic(calls: Calls) -> str:
    def one(name: str, arguments: dict[str, Any]) -> str:
        return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"

    return f"[{', '.join(one(*call) for call in calls)}]"


# Name of the style -> how it writes calls. Those in ALONE have no text before their calls.
WRITERS: dict[str, Callable[[Calls], str]] = {
    "hermes": hermes,
    "granite": listed("<|tool_call|>"),
    "phi": listed("functools"),
    "phi marked": listed("<|tool_call|>", "<|/tool_call|>"),
    "mistral": mistral,
    "mistral listed": listed("[TOOL_CALLS]"),
    "deepseek": deepseek,
    "deepseek bare": lambda calls: deepseek(calls, fenced=False),
    "harmony": harmony,
    "glm": glm,
    "qwen_xml": qwen_xml,
    "pythonic": pythonic,
    "llama3_json": llama,
    "llama3_json marked": lambda calls: "<|python_tag|>" + llama(calls),
}
ALONE = ("pythonic", "llama3_json", "llama3_json marked")


def dialect_of(writer: str) -> Dialect:
    """The dialect of a name in WRITERS."""
    tools = writer.split()[0]
    reasoning = {"harmony": "harmony", "mistral": "mistral"}.get(tools, "think")
    return Dialect(tools, reasoning)


def answer(writer: str, reasoning: str, content: str, calls: Calls) -> str:
    """A whole answer."""
    written = WRITERS[writer](calls) if calls else ""
    match dialect_of(writer).reasoning:
        case "harmony":
            messages = [f"<|channel|>analysis<|message|>{reasoning}<|end|>"] if reasoning else []
            if content:
                channel = "commentary" if calls else "final"
                messages.append(f"<|channel|>{channel}<|message|>{content}<|end|>")
            return "<|start|>assistant".join(messages + [written] * bool(written))
        case "mistral":
            thought = f"[THINK]{reasoning}[/THINK]" if reasoning else ""
        case _:
            thought = f"<think>\n{reasoning}\n</think>\n\n" if reasoning else ""
    return thought + content + ("\n" + written if content and written else written)
