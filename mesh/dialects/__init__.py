"""How families of models write reasoning and calls of tools in their answers.

The gateway parses answers with these, so that it sees the text that the client sees, whichever workers it came from; a
worker finds out by its chat template which dialect a model speaks, tells it, and holds answers to it by grammar
(`mesh.dialects.grammar`). Pure text: no wire, no tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mesh.dialects import deepseek as _deepseek
from mesh.dialects import harmony as _harmony
from mesh.dialects import mistral as _mistral
from mesh.dialects import pythonic as _pythonic
from mesh.dialects.json_calls import bare_calls, marked_calls
from mesh.dialects.source import Arguments, Call, Content, Part, Reader, Reading, Reasoning, Source, joined
from mesh.dialects.tagged import glm, qwen_xml
from mesh.dialects.thinking import reasoning
from mesh.dialects.values import Tools

__all__ = [
    "AUTO",
    "HARMONY",
    "NONE",
    "REASONING",
    "TOOLS",
    "UNKNOWN",
    "Arguments",
    "Call",
    "Content",
    "Dialect",
    "Part",
    "Reader",
    "Reasoning",
    "Tools",
    "choose",
    "find",
    "joined",
    "read",
]

# Settings that name no parser: by the chat template; nothing is parsed.
AUTO: Final = "auto"
NONE: Final = "none"
HARMONY: Final = "harmony"


@dataclass(frozen=True, slots=True)
class ToolStyle:
    """A way to write calls. `tokens` are its marks as far as tokenizers may have them as special tokens, whose text is
    left out of answers otherwise; `template` finds it in a chat template; `short_ids`: ids of calls are 9 letters and
    digits."""

    parse: Callable[[Source, Tools], Reading[None]]
    template: str
    tokens: tuple[str, ...] = ()
    short_ids: bool = False


@dataclass(frozen=True, slots=True)
class ReasoningStyle:
    """A way to write reasoning: between two marks."""

    begin: str
    end: str
    template: str


def _no_calls(source: Source, tools: Tools) -> Reading[None]:
    return source.copy_rest(Content)


def _harmony_calls(source: Source, tools: Tools) -> Reading[None]:
    return _harmony.harmony(source, calls=True, reasoning=False, header=True)


_GRANITE: Final = ("<|tool_call|>", "<tool_call>")
_PHI: Final = ("<|tool_call|>", "functools")
_PHI_END: Final = "<|/tool_call|>"
_PYTHON_TAG: Final = "<|python_tag|>"

# In the order in which templates are searched: some hold the marks of another style too.
TOOLS: Final[dict[str, ToolStyle]] = {
    HARMONY: ToolStyle(_harmony_calls, r"<\|channel\|>", _harmony.TOKENS),
    "deepseek": ToolStyle(
        lambda source, _: _deepseek.deepseek(source),
        "<｜tool▁calls▁begin｜>",
        (_deepseek.CALLS, _deepseek.CALL, _deepseek.SEPARATOR, _deepseek.CALL_END, _deepseek.CALLS_END),
    ),
    "mistral": ToolStyle(
        lambda source, _: _mistral.mistral(source),
        r"\[TOOL_CALLS\]",
        (_mistral.MARK, "[ARGS]", "[CALL_ID]"),
        short_ids=True,
    ),
    "glm": ToolStyle(
        glm,
        "<arg_key>",
        ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    ),
    "qwen_xml": ToolStyle(qwen_xml, "<function=", ("<tool_call>", "</tool_call>")),
    "phi": ToolStyle(
        lambda source, _: marked_calls(source, _PHI, (_PHI_END,)), r"<\|tool\|>|functools", (_PHI[0], _PHI_END)
    ),
    "granite": ToolStyle(
        lambda source, _: marked_calls(source, _GRANITE, ("</tool_call>",)),
        r"<\|tool_call\|>",
        (*_GRANITE, "</tool_call>"),
    ),
    "hermes": ToolStyle(
        lambda source, _: marked_calls(source, ("<tool_call>",), ("</tool_call>",)),
        "<tool_call>",
        ("<tool_call>", "</tool_call>"),
    ),
    "pythonic": ToolStyle(_pythonic.pythonic, r"<\|python_start\|>|\[func_name1?\(", (_pythonic.BEGIN, _pythonic.END)),
    "llama3_json": ToolStyle(
        lambda source, tools: bare_calls(source, tools, _PYTHON_TAG),
        r"<\|python_tag\|>|\"parameters\": dictionary of argument name",
        (_PYTHON_TAG,),
    ),
}
REASONING: Final[dict[str, ReasoningStyle]] = {
    "mistral": ReasoningStyle("[THINK]", "[/THINK]", r"\[THINK\]"),
    "think": ReasoningStyle("<think>", "</think>", "</?think>"),
}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a model writes calls and reasoning: names of TOOLS and REASONING, or `harmony` for both; empty if it is not
    known, `none` if it is not to be looked for."""

    tools: str = ""
    reasoning: str = ""

    @property
    def tokens(self) -> tuple[str, ...]:
        """The marks that a reader must see, also where a tokenizer has them as special tokens."""
        style, thought = TOOLS.get(self.tools), REASONING.get(self.reasoning)
        marks = [*(style.tokens if style else ()), *((thought.begin, thought.end) if thought else ())]
        return tuple(dict.fromkeys(marks + list(_harmony.TOKENS) * (self.reasoning == HARMONY)))

    @property
    def short_ids(self) -> bool:
        """Whether its templates take ids of calls of 9 letters and digits alone."""
        style = TOOLS.get(self.tools)
        return style is not None and style.short_ids


UNKNOWN: Final = Dialect()


def choose(template: str, tools: str = AUTO, reasoning: str = AUTO) -> Dialect:
    """The dialect of a template, but for the parsers that are named instead of `auto`."""
    found = find(template)
    return Dialect(found.tools if tools == AUTO else tools, found.reasoning if reasoning == AUTO else reasoning)


def find(template: str) -> Dialect:
    """The dialect that a chat template is written for."""

    def first(patterns: dict[str, str]) -> str:
        return next((name for name, pattern in patterns.items() if re.search(pattern, template)), "")

    tools = first({name: style.template for name, style in TOOLS.items()})
    if tools == HARMONY:
        return Dialect(HARMONY, HARMONY)
    return Dialect(tools, first({name: style.template for name, style in REASONING.items()}))


def read(dialect: Dialect, *, tools: Tools | None, reasoned: bool, prompt_end: str) -> Reader | None:
    """A reader for one answer; None if nothing is to be looked for.

    `tools`: the functions that may be called, None to leave calls in the text; `reasoned`: whether reasoning is told
    from the answer; `prompt_end`: the last characters of the prompt, special tokens included.
    """
    parse = TOOLS[dialect.tools].parse if tools is not None and dialect.tools in TOOLS else None
    if HARMONY in (dialect.tools if parse else "", dialect.reasoning if reasoned else ""):
        header = prompt_end.endswith(("<|start|>assistant", "<|end|>")) or not prompt_end
        return Reader(
            lambda source: _harmony.harmony(
                source, calls=parse is not None, reasoning=reasoned and dialect.reasoning == HARMONY, header=header
            )
        )
    thought = REASONING.get(dialect.reasoning) if reasoned else None
    if parse is None and thought is None:
        return None

    def both(source: Source) -> Reading[None]:
        if thought is not None:
            inside = prompt_end.rstrip().endswith(thought.begin)
            yield from reasoning(source, thought.begin, thought.end, inside=inside)
        yield from (parse or _no_calls)(source, tools or {})

    return Reader(both)
