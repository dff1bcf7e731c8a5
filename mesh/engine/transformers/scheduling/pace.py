"""How much of a prompt a step may compute while answers are being written, so that these do not stand still."""

from __future__ import annotations

from collections import deque

from mesh.engine.transformers.scheduling.sequence import Batch

# Smaller pieces cost a step each and shorten it little: the decoding rows and the weights take their time anyway.
LEAST_PIECE = 32
# The first piece, before anything is known: large enough to learn from it.
FIRST_PIECE = 64
# Steps that are looked back at. The fastest of them counts, since a busy machine makes steps slower, never faster.
# Few with prompts, since a token gets dearer with each one before it.
_PLAIN_STEPS = 4
_PROMPT_STEPS = 2
# A step with a prompt that was no longer than one without.
_LEAST_SECONDS = 1e-6


class PromptPace:
    """Learns from the steps what a prompt token costs.

    A step with decoding rows shall last at most `seconds`, or twice as long as one without a prompt where that is more:
    the rows that decode then never lose more than half of their speed to a prompt.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._plain = deque[float](maxlen=_PLAIN_STEPS)  # seconds of steps without a prompt
        self._per_token = deque[float](maxlen=_PROMPT_STEPS)

    def most(self, batch: Batch) -> int | None:
        """The most prompt tokens beside what is in the batch already; None is any number.

        None too while nothing decodes.
        """
        if not batch:
            return None
        if not self._per_token:
            return FIRST_PIECE
        plain = min(self._plain, default=0.0)
        return max(LEAST_PIECE, int(max(self._seconds - plain, plain) / min(self._per_token)))

    def note(self, batch: Batch, seconds: float) -> None:
        """A step has lasted that long."""
        tokens = sum(chunk.count for chunk in batch.prefill if not chunk.draft)
        if not tokens:
            self._plain.append(seconds)
        elif tokens >= LEAST_PIECE:
            plain = min(self._plain, default=0.0) if batch.decode else 0.0
            self._per_token.append(max(seconds - plain, _LEAST_SECONDS) / tokens)
