"""Which worker produced which tokens of an answer, for a client that asks with `x-mesh-trace: 1`."""

from __future__ import annotations

from typing import Self

import msgspec

from gateway.routing.session import Session


class Attempt(msgspec.Struct):
    """One attempt: the worker's process, the first of its tokens counted over all choices from 0, how many they are,
    and how it ended: `finished`, `running`, or why it was left."""

    worker: str
    incarnation: str
    first: int
    tokens: int = 0
    outcome: str = "running"

    @classmethod
    def at(cls, session: Session, tokens: int = 0) -> Self:
        """It starts there when the answer has so many tokens."""
        return cls(session.worker_id, session.incarnation, tokens)

    def end(self, outcome: str, tokens: int = 0) -> None:
        """It has ended, and the answer has so many tokens now."""
        self.tokens, self.outcome = tokens - self.first, outcome


def shown(attempts: list[Attempt]) -> bytes:
    """As JSON, on one line of ASCII as HTTP's headers want it."""
    return msgspec.json.encode(attempts).decode().encode("ascii", "backslashreplace")
