"""Token ids of answers and their prompts, as vLLM tells them by `return_token_ids`."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.routing.events import Delta

_encode = msgspec.json.encode


class TokenIds:
    """Those of the choices of one answer. They wait here while the text that belongs to them is held back."""

    def __init__(self, choices: int, prompt: Callable[[int], list[int]]) -> None:
        """`prompt` gives those of a choice's prompt, once the answer has begun."""
        self.prompt = prompt
        self._waiting: list[list[int]] = [[] for _ in range(choices)]
        self._told = [False] * choices

    def add(self, delta: Delta) -> None:
        """The next ones of a choice."""
        self._waiting[delta.choice].extend(delta.token_ids)

    def take(self, choice: int) -> list[int]:
        """All that wait of a choice."""
        waiting, self._waiting[choice] = self._waiting[choice], []
        return waiting

    def fields(self, choice: int) -> tuple[bytes, bytes]:
        """For a chunk of a stream: the field of those that wait, and, in the first chunk of the choice, that of its
        prompt's."""
        prompt = b""
        if not self._told[choice]:
            self._told[choice] = True
            prompt = b',"prompt_token_ids":%b' % _encode(self.prompt(choice))
        return b',"token_ids":%b' % _encode(self.take(choice)), prompt
