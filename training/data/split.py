"""`mesh data split`: long conversations in pieces of so many tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from typing import Any, Final

from mesh.config import option
from training.conversations import Conversation, Message
from training.data.tokens import Count, token_counter
from training.data.tool import Changed, Dropped, Step, Tool
from training.data.words import digest

PART_OF: Final = "part_of"
"""The field that names the conversation that a piece is of."""


@dataclass(frozen=True, kw_only=True)
class Split(Tool):
    """Cut long conversations between two exchanges; each piece repeats the system's message."""

    tokenizer: str = option(help="The model whose tokens count: a folder, a tokenizer.json, or a name of the hub.")
    max_tokens: int = option(2048, "Tokens of a piece, at most.", low=1)
    overhead: int = option(6, "Tokens that a template adds to each message.", low=0)

    def check(self) -> None:
        token_counter(self.tokenizer)

    def step(self) -> Step:
        return self._split

    def _split(self, conversation: Conversation) -> Iterator[Conversation | Dropped | Changed]:
        count = cache(token_counter(self.tokenizer))  # each message is counted more than once
        if self._fixed(conversation, count) + self._tokens(conversation.everything, count) <= self.max_tokens:
            yield conversation
            return
        if conversation.rejected:
            yield self._too_long(conversation, "a preference longer than a piece", count)
            return
        pieces = list(self._pieces(conversation, count))
        if len(pieces) <= 1:  # nowhere to cut
            what = "an exchange" if pieces else "a system message"
            yield self._too_long(conversation, f"{what} longer than a piece", count)
            return
        if any(isinstance(piece, Conversation) for piece in pieces):
            yield Changed("conversations cut")
        yield from pieces

    def _pieces(self, conversation: Conversation, count: Count) -> Iterator[Conversation | Dropped]:
        """Every exchange goes into one piece, as many as fit; one that is too long by itself is dropped by itself."""
        system = conversation.system()
        room = self.max_tokens - self._fixed(conversation, count) - self._tokens(system, count)
        numbered = _Numbered(conversation, system)
        piece: list[Message] = []
        size = 0
        for exchange in conversation.exchanges():
            length = self._tokens(exchange, count)
            if piece and size + length > room:
                yield numbered.piece(piece)
                piece, size = [], 0
            if length > room:
                yield self._too_long(numbered.piece(exchange), "an exchange longer than a piece", count)
            else:
                piece += exchange
                size += length
        if piece:
            yield numbered.piece(piece)

    def _too_long(self, piece: Conversation, reason: str, count: Count) -> Dropped:
        tokens = self._fixed(piece, count) + self._tokens(piece.everything, count)
        return Dropped(piece, reason, f"{tokens} tokens, {self.max_tokens} allowed")

    def _tokens(self, messages: tuple[Message, ...] | list[Message], count: Count) -> int:
        return sum(count(message.text) + self.overhead for message in messages)

    def _fixed(self, conversation: Conversation, count: Count) -> int:
        """What each piece has besides its messages: the tools that a template presents."""
        tools: Any = conversation.extra.get("tools")
        return count(tools if isinstance(tools, str) else json.dumps(tools)) if tools else 0


class _Numbered:
    """Pieces of a conversation with ids of their own."""

    def __init__(self, whole: Conversation, system: tuple[Message, ...]) -> None:
        self._whole = whole
        self._system = system
        self._name = whole.id or digest(whole.text).hex()
        self._numbers = count(1)

    def piece(self, messages: tuple[Message, ...] | list[Message]) -> Conversation:
        extra = {**self._whole.extra, PART_OF: self._whole.extra.get(PART_OF, self._name)}
        name = f"{self._name}-{next(self._numbers)}"
        return replace(self._whole, messages=(*self._system, *messages), id=name, extra=extra)
