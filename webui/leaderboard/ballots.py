"""Votes as ratings read them: grouped by all that decides where they count, with no text and no person in sight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from webui.leaderboard.cells import A_WINS, B_WINS, TIE, Cells, Floats, Ints, from_counts

SCORES: Final = {"a": A_WINS, "b": B_WINS, "tie": TIE, "both_bad": TIE}
# The columns of `Ballots.style`, each for both sides.
STYLE: Final = ("length", "headers", "lists", "bold")


class Group(NamedTuple):
    """Votes that no rating tells apart. `categories` and `marks` hold their words between commas (`,code,image,`).

    `distinct`: few votes before had the same prompts.
    """

    model_a: str
    model_b: str
    choice: str
    language: str
    categories: str
    marks: str
    distinct: bool


# How many votes of each group.
Tally = Mapping[Group, int]


@dataclass(frozen=True, slots=True)
class Ballots:
    """Single votes in their order: `group` [N] indexes `groups`, `cast` [N] is in seconds since 1970.

    `style` [N, F, 2] are the counts STYLE of sides a and b; `voter` [N] indexes `voters`, which are hashes.
    """

    groups: tuple[Group, ...]
    group: Ints
    cast: Floats
    style: npt.NDArray[np.int32]
    voter: Ints
    voters: tuple[str, ...]

    def per_group(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """A value of each group [G] as one of each vote [N]."""
        return values[self.group]

    def tally(self) -> dict[Group, int]:
        """How many votes of each group."""
        counts = np.bincount(self.group, minlength=len(self.groups))
        return dict(zip(self.groups, counts.tolist(), strict=True))


class Source(Protocol):
    """Where votes come from. The methods block, and raise StoreUnavailable."""

    def version(self) -> str:
        """Another text whenever votes have come, gone or changed."""
        ...

    def tally(self) -> Tally:
        """All votes between hidden models, but for those of excluded voters."""
        ...

    def days(self) -> Mapping[int, Tally]:
        """The same by day since 1970 in UTC."""
        ...

    def ballots(self) -> Ballots:
        """The same one by one, which takes seconds for a million."""
        ...


def cells(tally: Tally) -> Cells:
    """The counts of a tally, the models sorted by name."""
    return from_counts((group.model_a, group.model_b, SCORES[group.choice], votes) for group, votes in tally.items())
