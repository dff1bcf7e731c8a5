"""The answer of one choice taken apart: content, reasoning and calls, from the same text for streams and for answers in
one piece."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from gateway.openai.chat_schema import ChatRequest
from gateway.openai.tools import allowed
from gateway.routing.events import Delta
from mesh.dialects import Call, Dialect, Part, Reader, Reasoning, Tools, read
from mesh.v1 import inference_pb2 as pb

_LONG_ID, _SHORT_ID = 24, 9


@dataclass(frozen=True, slots=True)
class PartOptions:
    """What is told from the text of an answer. `tools`: the functions that may be called, None to leave calls in the
    text; `reasoned`: whether reasoning is told from it, `hidden`: and left away."""

    tools: Tools | None
    reasoned: bool
    hidden: bool
    functions: bool = False  # whether a call is told in the form that was before tools

    @property
    def wanted(self) -> bool:
        """Whether anything is told from the text."""
        return self.reasoned or self.tools is not None

    @classmethod
    def of(cls, chat: ChatRequest) -> PartOptions:
        """What a request asks for. An answer that is held to a grammar has no calls; workers are told by what is wanted
        here whether reasoning may come before it."""
        may_call = allowed(chat.tools, chat.tool_choice)
        tools = {each.name: each.parameters or {} for each in may_call.functions}
        return cls(
            tools=tools if tools and may_call.mode != "none" and not chat.is_constrained else None,
            reasoned=chat.separate_reasoning is not False,
            hidden=chat.include_reasoning is False,
            functions=chat.functions is not None,
        )


class ChoiceReader:
    """Reads one choice. A token counts as reasoning if there is reasoning before or after it."""

    def __init__(self, reader: Reader, *, hidden: bool, short_ids: bool, seed: str, functions: bool = False) -> None:
        """`seed` makes the ids of calls: the same for the same answer."""
        self._reader = reader
        self._hidden = hidden
        self._short_ids = short_ids
        self._seed = seed
        self.functions = functions
        self.calls = 0
        self.told = 0  # calls whose beginning has been sent
        self.reasoning_tokens = 0

    def take(self, delta: Delta) -> list[Part]:
        """The parts that are known with these tokens."""
        reasoned = self._reader.reasons
        parts = self._reader.feed(delta.text) if delta.text else []
        if reasoned or self._reader.reasons:
            self.reasoning_tokens += len(delta.token_ids)
        return self._noted(parts)

    def finish(self) -> list[Part]:
        """The parts that are known at the end."""
        return self._noted(self._reader.finish())

    def finish_reason(self, reason: str) -> str:
        """Why the choice ended, given why its text did."""
        if reason != "stop" or not self.calls:
            return reason
        return "function_call" if self.functions else "tool_calls"

    def call_id(self, index: int) -> str:
        """The id of a call."""
        digest = hashlib.blake2b(f"{self._seed}:{index}".encode(), digest_size=12).hexdigest()
        return digest[:_SHORT_ID] if self._short_ids else f"call_{digest[:_LONG_ID]}"

    def _noted(self, parts: list[Part]) -> list[Part]:
        self.calls += sum(isinstance(part, Call) for part in parts)
        return [part for part in parts if not isinstance(part, Reasoning)] if self._hidden else parts


def choice_readers(
    options: PartOptions, started: pb.Started, answer_id: str, choices: int
) -> list[ChoiceReader] | None:
    """A reader for each choice of an answer that has begun; None if its text is content and nothing else."""
    markup = started.markup
    dialect = Dialect(markup.tool_parser, markup.reasoning_parser)
    found: list[ChoiceReader] = []
    for choice in range(choices):
        reader = read(dialect, tools=options.tools, reasoned=options.reasoned, prompt_end=markup.prompt_end)
        if reader is None:
            return None
        seed = f"{answer_id}:{choice}"
        found.append(
            ChoiceReader(
                reader, hidden=options.hidden, functions=options.functions, short_ids=dialect.short_ids, seed=seed
            )
        )
    return found
