"""Which worker produced which tokens of an answer, for a client that asks with `x-mesh-trace: 1`."""

from __future__ import annotations

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


class Trail:
    """The attempts of one request, in order."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []

    def begin(self, session: Session, tokens: int) -> None:
        """An attempt starts when there are so many tokens."""
        self.attempts.append(Attempt(session.worker_id, session.incarnation, tokens))

    def end(self, outcome: str, tokens: int) -> None:
        """The last attempt has ended, and there are so many tokens now."""
        last = self.attempts[-1]
        last.tokens, last.outcome = tokens - last.first, outcome


def shown(attempts: list[Attempt]) -> bytes:
    """As JSON, on one line of ASCII as HTTP's headers want it."""
    return msgspec.json.encode(attempts).decode().encode("ascii", "backslashreplace")
