"""Grammars of answers that must hold calls, whose calls must keep to their schemas, or that keep to another grammar
after the reasoning; each in the way of the model's dialect.

The notation is llguidance's: Lark with `%json` for what a schema describes, `<[id]>` for special tokens, and `[lazy]`
for text that ends with the first occurrence of what follows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from mesh.dialects import HARMONY, REASONING, Dialect
from mesh.dialects import deepseek as _deepseek
from mesh.dialects import harmony as _harmony
from mesh.dialects import mistral as _mistral
from mesh.dialects import tagged as _tagged
from mesh.dialects.values import json_types
from mesh.errors import unsupported

# JSON as models write it. Freedom of white space is freedom to write nothing else.
_SPACING: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_FREE: Final[dict[str, Any]] = {"type": "object"}
# Words of a schema of arguments beyond properties, which formats with one argument after the other cannot keep to.
_BEYOND: Final = (
    "anyOf",
    "oneOf",
    "allOf",
    "not",
    "if",
    "$ref",
    "patternProperties",
    "minProperties",
    "dependentRequired",
)


_TERMINALS: Final = ("TEXT: /(.|\\n)*/", "GAP: /[ \\n]{0,4}/")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonedGrammar:
    """An answer after the reasoning of a model. `special` gives the id of a text that is a special token. `prompt_end`
    is the end of the prompt."""

    dialect: Dialect
    special: Callable[[str], int | None]
    prompt_end: str

    def around(self, answer: str) -> str:
        """The grammar of the whole, with this for the answer; empty if that is the whole."""
        thought = " ".join(self.thought(rules := list[str]()))
        if not thought:
            return ""
        if self.dialect.reasoning == HARMONY:
            thought += f' {self.mark(_harmony.CHANNEL)} "final" {self.mark(_harmony.MESSAGE)}'
        return "\n".join([*rules, f"start: {thought} {answer}", *_TERMINALS])

    def thought(self, rules: list[str]) -> Iterator[str]:
        """What may or must come before: the rest of the reasoning that the prompt has begun, or reasoning."""
        if self.dialect.reasoning == HARMONY:
            channel, message, end, start = map(
                self.mark, (_harmony.CHANNEL, _harmony.MESSAGE, _harmony.END, _harmony.START)
            )
            rules.append(f'thought: {channel} "analysis" {message} TEXT {end} {start} "assistant"')
            yield "thought?"
            return
        style = REASONING.get(self.dialect.reasoning)
        if style is None or self.prompt_end.rstrip().endswith(style.end):
            return
        if self.special(style.end) is None:
            rules.append(f"thought[lazy]: TEXT {_text(style.end)}")
        else:
            rules.append(f"thought: TEXT {self.mark(style.end)}")
        begun = self.prompt_end.rstrip().endswith(style.begin)
        yield "thought GAP" if begun else f"({self.mark(style.begin)} thought GAP)?"

    def mark(self, text: str) -> str:
        """A mark of the dialect: a special token, or text; nothing for no mark."""
        token = self.special(text) if text else None
        return f"<[{token}]>" if token is not None else _text(text) if text else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallGrammar(ReasonedGrammar):
    """What is asked: calls of `tools` (schema by name; None is any object), at least one if `required`, at most one if
    `single`."""

    tools: Mapping[str, Mapping[str, Any] | None]
    required: bool
    single: bool

    def lark(self) -> str:
        """The grammar. Raises unsupported naming what the dialect cannot be held to."""
        build = _STYLES.get(self.dialect.tools)
        if build is None:
            raise unsupported("tool_choice", "'tool_choice' cannot be kept to: how the model writes calls is not known")
        style = build(self)
        rules = [*self._start(style), *_TERMINALS, f"call: {style.call}", *style.rules]
        return "\n".join(rules)

    def _start(self, style: _Style) -> Iterator[str]:
        thought = " ".join(self.thought(rules := list[str]()))
        yield from rules
        single = self.single or style.between is None
        # `call` comes after the mark that begins it, and after nothing if there is none.
        more = "" if single else f" ({style.between or ''} {self.mark(style.begin)} call)*"
        calls = f"{self.mark(style.begin)} call{more} {style.end}"
        if self.required:
            yield f"start: {thought} {calls}"
        elif not style.begin:
            yield f"start: {thought} (OTHER | {calls})"
            yield "OTHER: /[^{\\[](.|\\n)*/"
        else:
            yield f"start: {thought} " + ("(TEXT | marked)" if single else "marked* TEXT")
            if self.special(style.begin) is None:
                yield f"trigger[lazy]: TEXT {_text(style.begin)}"
                yield f"marked: trigger call {style.end}"
            else:
                yield f"marked: TEXT {self.mark(style.begin)} call {style.end}"

    def marks(self, text: str) -> str:
        """A text in which there may be marks of the dialect."""
        pieces = re.split("|".join(f"({re.escape(token)})" for token in self.dialect.tokens), text)
        return " ".join(self.mark(piece) for piece in pieces if piece)

    def each(self, before: str, after: str) -> tuple[str, list[str]]:
        """Alternatives for the functions, arguments as JSON: `before` with the name for %s, arguments, `after`."""
        rules = [f"args_{place}: {_json(self.arguments(name))}" for place, name in enumerate(self.tools)]
        options = [
            f"{_text(before % json.dumps(name)[1:-1])} args_{place} {after}" for place, name in enumerate(self.tools)
        ]
        return f"({' | '.join(options)})", rules

    def arguments(self, name: str) -> Mapping[str, Any]:
        """The schema of a function's arguments, which are an object."""
        schema = self.tools[name]
        if schema is None:
            return _FREE
        if json_types(schema) not in (set[str](), {"object"}):
            raise unsupported("tools", f"'parameters' of the tool '{name}' must be of type object")
        return {**schema, "type": "object"}

    def members(self, name: str) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
        """The arguments of a function one by one: name, schema, and whether it is required."""
        schema = self.arguments(name)
        if beyond := [word for word in _BEYOND if word in schema]:
            text = f"'parameters' of the tool '{name}' have '{beyond[0]}', which calls of this model cannot be held to"
            raise unsupported("tools", text)
        shared = {word: schema[word] for word in ("$defs", "definitions") if word in schema}
        required = cast("Sequence[str]", schema.get("required", ()))
        for key, value in cast("Mapping[str, Any]", schema.get("properties", {})).items():
            yield key, {**(value if isinstance(value, dict) else {}), **shared}, key in required


@dataclass(frozen=True, slots=True)
class _Style:
    """A call after the mark `begin`; `between` two of them, None if there is one at most; `end` after the last."""

    begin: str
    call: str
    rules: list[str]
    between: str | None = ""
    end: str = ""


def _text(text: str) -> str:
    return json.dumps(text)


def _json(schema: Mapping[str, Any]) -> str:
    return "%json " + json.dumps({"x-guidance": _SPACING, **schema})


def _object(grammar: CallGrammar, key: str) -> tuple[str, list[str]]:
    return grammar.each('{"name": "%s", "' + key + '": ', '"}"')


def _hermes(grammar: CallGrammar) -> _Style:
    call, rules = _object(grammar, "arguments")
    end = grammar.mark("</tool_call>")
    return _Style("<tool_call>", f'"\\n" {call} "\\n" {end}', rules, between='"\\n"')


def _listed(grammar: CallGrammar, begin: str, end: str = "") -> _Style:
    call, rules = _object(grammar, "arguments")
    more = "" if grammar.single else f' (", " {call})*'
    return _Style(begin, f'"[" {call}{more} "]" {grammar.mark(end)}', rules, between=None)


def _granite(grammar: CallGrammar) -> _Style:
    return _listed(grammar, "<|tool_call|>" if grammar.special("<|tool_call|>") is not None else "<tool_call>")


def _phi(grammar: CallGrammar) -> _Style:
    marked = grammar.special("<|tool_call|>") is not None
    return _listed(grammar, "<|tool_call|>", "<|/tool_call|>") if marked else _listed(grammar, "functools")


def _mistral_calls(grammar: CallGrammar) -> _Style:
    if grammar.special("[ARGS]") is None:
        return _listed(grammar, _mistral.MARK)
    rules = [f"args_{place}: {_json(grammar.arguments(name))}" for place, name in enumerate(grammar.tools)]
    options = [f"{_text(name)} {grammar.mark('[ARGS]')} args_{place}" for place, name in enumerate(grammar.tools)]
    return _Style(_mistral.MARK, f"({' | '.join(options)})", rules)


def _deepseek_calls(grammar: CallGrammar) -> _Style:
    begin, separator, end = map(grammar.mark, (_deepseek.CALL, _deepseek.SEPARATOR, _deepseek.CALL_END))
    rules = [f"args_{place}: {_json(grammar.arguments(name))}" for place, name in enumerate(grammar.tools)]
    options: list[str] = []
    for place, name in enumerate(grammar.tools):
        fenced = _text(f"{name}\n```json\n")
        options.append(f"{_text(name)} {separator} args_{place}")
        options.append(f'"function" {separator} {fenced} args_{place} "\\n```"')
    one = f"{begin} ({' | '.join(options)}) {end}"
    more = "" if grammar.single else f' ("\\n"? {one})*'
    return _Style(_deepseek.CALLS, f"{one}{more} {grammar.mark(_deepseek.CALLS_END)}", rules, between=None)


def _harmony_calls(grammar: CallGrammar) -> _Style:
    if not grammar.required:
        raise unsupported("tools", "'strict' and 'parallel_tool_calls' cannot be kept to in this model's format")
    head = f'{grammar.mark(_harmony.CONSTRAIN)} "json" {grammar.mark(_harmony.MESSAGE)}'
    rules = [f"args_{place}: {_json(grammar.arguments(name))}" for place, name in enumerate(grammar.tools)]
    options = [
        f"{_text(f'commentary to=functions.{name} ')} {head} args_{place}" for place, name in enumerate(grammar.tools)
    ]
    return _Style(_harmony.CHANNEL, f"({' | '.join(options)})", rules, between=None)


def _llama(grammar: CallGrammar) -> _Style:
    call, rules = _object(grammar, "parameters")
    return _Style("", call, rules, between='"; "')


def _pythonic(grammar: CallGrammar) -> _Style:
    rules: list[str] = []
    options: list[str] = []
    for place, name in enumerate(grammar.tools):
        required: list[str] = []
        optional: list[str] = []
        for number, (key, schema, needed) in enumerate(grammar.members(name)):
            rules.append(f"arg_{place}_{number}: {_text(key + '=')} {_json(schema)}")
            (required if needed else optional).append(f"arg_{place}_{number}")
        # The required ones go first, so that a comma can stand before each of the others.
        tail = "".join(f' (", " {each})?' for each in optional)
        if not required:
            tail = " | ".join(
                " ".join([one, *(f'(", " {each})?' for each in optional[at + 1 :])]) for at, one in enumerate(optional)
            )
            tail = f"({tail})?" if tail else ""
        options.append(f'{_text(name + "(")} {_text(", ").join(f" {each} " for each in required)}{tail} ")"')
    call = f"({' | '.join(options)})"
    more = "" if grammar.single else f' (", " {call})*'
    return _Style("", f'"[" {call}{more} "]"', rules, between=None)


def _tagged_calls(grammar: CallGrammar, head: str, key: str, close: str, tail: str) -> _Style:
    """Arguments between tags: `head` and `key` with the names for %s, `close` after each value, `tail` after all."""
    rules: list[str] = []
    options: list[str] = []
    for place, name in enumerate(grammar.tools):
        members: list[str] = []
        for number, (argument, schema, needed) in enumerate(grammar.members(name)):
            rule = f"arg_{place}_{number}"
            rules += _tagged_value(grammar, f"'{argument}' of the tool '{name}'", schema, close, rule)
            members.append(f"({grammar.marks(key % argument)} {rule})" + ("" if needed else "?"))
        options.append(f"{grammar.marks(head % name)} {' '.join(members)}")
    return _Style(_tagged.BEGIN, f"({' | '.join(options)}) {grammar.marks(tail)}", rules, between='"\\n"')


def _tagged_value(grammar: CallGrammar, where: str, schema: Mapping[str, Any], close: str, rule: str) -> list[str]:
    """The rules of a value up to its end: strings as they are, all else as JSON."""
    types, end = json_types(schema), grammar.marks(close)
    if types != {"string"}:
        if not types or "string" in types:
            raise unsupported("tools", f"{where} must have one type for calls to be held to it in this model's format")
        return [f"{rule}: {_json(schema)} {end}"]
    if "enum" in schema:
        choices = " | ".join(_text(str(value)) for value in cast("Sequence[Any]", schema["enum"]))
        return [f"{rule}: ({choices}) {end}"]
    if beyond := [word for word in ("pattern", "format", "minLength", "maxLength", "const") if word in schema]:
        raise unsupported("tools", f"'{beyond[0]}' of {where} cannot be kept to in this model's format")
    # A special token ends a text by itself; a mark that is text must be looked for.
    return [f"{rule}: TEXT {end}" if end.startswith("<[") else f"{rule}[lazy]: TEXT {_text(close)}"]


def _glm(grammar: CallGrammar) -> _Style:
    key = f"{_tagged.KEY}%s{_tagged.KEY_END}\n{_tagged.VALUE}"
    return _tagged_calls(grammar, "%s\n", key, f"{_tagged.VALUE_END}\n", _tagged.END)


def _qwen_xml(grammar: CallGrammar) -> _Style:
    tail = f"{_tagged.FUNCTION_END}\n{_tagged.END}"
    close = f"\n{_tagged.PARAMETER_END}\n"
    return _tagged_calls(grammar, f"\n{_tagged.FUNCTION}%s>\n", f"{_tagged.PARAMETER}%s>\n", close, tail)


_STYLES: Final[dict[str, Callable[[CallGrammar], _Style]]] = {
    "hermes": _hermes,
    "granite": _granite,
    "phi": _phi,
    "mistral": _mistral_calls,
    "deepseek": _deepseek_calls,
    HARMONY: _harmony_calls,
    "llama3_json": _llama,
    "pythonic": _pythonic,
    "glm": _glm,
    "qwen_xml": _qwen_xml,
}
