"""What an answer must hold of calls, and what may come before it: made into grammars, or refused by engines that have
none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from mesh.dialects import Dialect
from mesh.dialects.grammar import CallGrammar, ReasonedGrammar
from mesh.engine.base import Chat, Constraint, Prompt, Request
from mesh.errors import unsupported

# Tokens at the end of a prompt by which it is known whether it has begun the reasoning.
_PROMPT_END = 16


class MarkedTokenizer(Protocol):
    """What grammars of calls need of a tokenizer."""

    def special_id(self, text: str) -> int | None:
        """The special token of this text, if there is one."""
        ...

    def decode(self, ids: Sequence[int], *, keep_special_tokens: bool = False) -> str:
        """See Codec."""
        ...


def demands_calls(request: Request) -> bool:
    """Whether the calls of an answer must be held to a grammar. One that has a constraint of its own has no calls."""
    chat = request.prompt
    if not isinstance(chat, Chat) or request.constraint is not None or not chat.tools:
        return False
    rule = chat.call_rule
    return rule.required or rule.single or any(tool.strict for tool in chat.tools)


def call_constraint(chat: Chat, dialect: Dialect, tokenizer: MarkedTokenizer, prompt_ids: Sequence[int]) -> Constraint:
    """The grammar of an answer to a chat that demands something of its calls. Raises unsupported.

    Arguments keep to their schemas if calls are demanded, and otherwise where the tool is strict.
    """
    rule = chat.call_rule
    grammar = CallGrammar(
        dialect=dialect,
        tools={
            tool.name: tool.parameters if rule.required or tool.strict else None
            for tool in chat.tools
            if rule.name in (None, tool.name)
        },
        required=rule.required,
        single=rule.single,
        special=tokenizer.special_id,
        prompt_end=_end_of(prompt_ids, tokenizer),
    )
    return Constraint("tools", grammar.lark())


def after_reasoning(
    constraint: Constraint, dialect: Dialect, tokenizer: MarkedTokenizer, prompt_ids: Sequence[int]
) -> Constraint:
    """The constraint of a model that may reason first: with the grammar of the whole output, if it reasons at all."""
    if not constraint.reasoned:
        return constraint
    grammar = ReasonedGrammar(dialect=dialect, special=tokenizer.special_id, prompt_end=_end_of(prompt_ids, tokenizer))
    return replace(constraint, around=grammar.around("@answer"))


def _end_of(prompt_ids: Sequence[int], tokenizer: MarkedTokenizer) -> str:
    return tokenizer.decode(prompt_ids[-_PROMPT_END:], keep_special_tokens=True)


def refuse_call_rule(prompt: Prompt) -> None:
    """For engines without grammars for calls: raise unsupported if a chat demands more than the model gives freely."""
    if not isinstance(prompt, Chat):
        return
    if prompt.call_rule.required:
        raise unsupported("tool_choice", "'tool_choice' can be auto or none here: forced calls are not supported")
    if prompt.tools and prompt.call_rule.single:
        raise unsupported("parallel_tool_calls", "'parallel_tool_calls' cannot be false here: calls cannot be limited")
    for tool in prompt.tools:
        if tool.strict:
            raise unsupported("tools", f"'strict' of the tool '{tool.name}' cannot be kept to here: it must be false")
