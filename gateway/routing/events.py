"""What a generation tells: the wire's messages, and the commonest of them in short."""

from __future__ import annotations

from typing import final

import msgspec

from mesh.answer import Event as WireEvent
from mesh.v1 import inference_pb2 as pb


@final
class Token(msgspec.Struct, gc=False):
    """A Delta of one token and no log probabilities, as the columns of a session's message have it. It reads like one,
    and costs a quarter: to make, and wherever it is looked at."""

    position: int
    token_id: int
    text: str
    choice: int = 0

    @property
    def token_ids(self) -> tuple[int]:
        """As Delta's."""
        return (self.token_id,)

    @property
    def logprobs(self) -> tuple[()]:
        """As Delta's."""
        return ()


Delta = pb.Delta | Token
Event = WireEvent | Token
