"""What every contender does, and what is measured of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True, slots=True)
class Run:
    """One batch from the first submit to the last token. Times are seconds since the submit.

    `rows` are the new tokens of each prompt in order, `times` the same shape: when each token was there. `shares` maps
    parts of the engine's own work to seconds, where the engine tells.
    """

    rows: list[list[int]]
    times: list[list[float]]
    wall: float
    shares: dict[str, float] = field(default_factory=dict[str, float])
    # When the late prompt was submitted and when it had its first token.
    late: tuple[float, float] | None = None

    @property
    def tokens(self) -> int:
        """New tokens of all rows."""
        return sum(len(row) for row in self.rows)

    @property
    def throughput(self) -> float:
        """New tokens per second over the whole run, prefill included."""
        return self.tokens / self.wall

    @property
    def first_tokens(self) -> float:
        """Seconds until the last row had its first token: the prefill of the whole batch."""
        return max(row[0] for row in self.times)

    @property
    def step(self) -> float:
        """Mean seconds between two tokens of a row once all rows decode, median of the rows; NaN if they never do.

        A mean, because the moments are those at which the events were taken, which may be late and then in a bunch.
        """
        start = self.first_tokens
        means: list[float] = []
        for row in self.times:
            decoding = [moment for moment in row if moment >= start]
            if len(decoding) > 1:
                means.append((decoding[-1] - decoding[0]) / (len(decoding) - 1))
        return median(means) if means else float("nan")


@dataclass(frozen=True, slots=True)
class Late:
    """A prompt that enters once every row has `after` tokens; its first token is all that is asked of it."""

    prompt: Sequence[int]
    after: int


class Contender(ABC):
    """One way to generate. `prepare` is not timed and is called before the runs of each number of streams.

    `one_at_a_time`: its throughput does not depend on the number of streams, so it is measured with the least of them.
    `takes_late`: whether `run` knows what to do with a late prompt.
    """

    name: str
    one_at_a_time = False
    takes_late = False

    @abstractmethod
    async def start(self) -> None:
        """Load the model."""

    async def prepare(self, streams: int, prompt_tokens: int, new_tokens: int) -> None:
        """Make ready for batches of this size."""
        del streams, prompt_tokens, new_tokens

    @abstractmethod
    async def run(self, prompts: Sequence[Sequence[int]], new_tokens: int, late: Late | None = None) -> Run:
        """Generate exactly `new_tokens` greedy tokens for each prompt, all submitted at once."""

    @abstractmethod
    async def stop(self) -> None:
        """Free what `start` and `prepare` took."""
