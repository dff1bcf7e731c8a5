"""The leaderboard of a running arena: counted in the background, so that a page costs no look at the votes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from mesh.log import kv
from webui.leaderboard.ballots import Ballots, Source, Tally, cells
from webui.leaderboard.board import Board, BoardRules, rate, rate_with_style
from webui.leaderboard.categories import CATEGORIES, OVERALL, Category, in_category, present
from webui.leaderboard.cells import Cells
from webui.records import StoreUnavailable

log = logging.getLogger(__name__)

# Counting rests this many times as long as it took, and so many seconds, so that votes are not counted all the time.
_REST: Final = 20
_LEAST_REST: Final = 1.0


@dataclass(slots=True)
class _Seen:
    """The votes as they were last counted, and the boards made of them."""

    version: str
    as_of: datetime
    tally: Tally
    days: Mapping[int, Tally]
    ballots: Ballots | None = None
    boards: dict[tuple[str, bool], Board] = field(default_factory=dict[tuple[str, bool], Board])


class LiveLeaderboard:
    """Boards by category, from counts that are made anew soon after `news`, and every `interval` seconds for the votes
    that another server has taken (more rarely for stores that take long to count).

    `on_counts` is given the votes of each pair after every count: for the sampler. `start` the thread, then `stop`.
    """

    def __init__(
        self,
        source: Source,
        rules: BoardRules | None = None,
        *,
        interval: float = 15.0,
        on_counts: Callable[[Cells], None] | None = None,
    ) -> None:
        self._source = source
        self._rules = rules or BoardRules()
        self._interval = interval
        self._on_counts = on_counts
        self._seen = _Seen("", datetime.now(UTC), {}, {})
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leaderboard", daemon=True)

    def start(self) -> None:
        """Count now, and then from time to time."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; waits for a count that is under way, for some seconds at most."""
        self._stopped.set()
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def news(self) -> None:
        """A vote has come: count it soon."""
        self._news.set()

    @property
    def as_of(self) -> datetime:
        """When the votes were last found to be as they are shown."""
        return self._seen.as_of

    def categories(self) -> list[Category]:
        """The categories that have votes of their own."""
        return present(self._seen.tally)

    def board(self, category: str = OVERALL, *, styled: bool = False) -> Board:
        """The board of a category. Style control reads the votes one by one, when it is first asked for.

        Raises StoreUnavailable.
        """
        seen, key = self._seen, (category, styled)
        with self._lock:
            if key not in seen.boards:
                if styled:
                    seen.ballots = seen.ballots or self._source.ballots()
                    seen.boards[key] = rate_with_style(seen.ballots, category, self._rules)
                else:
                    seen.boards[key] = rate(seen.tally, category, self._rules)
            return seen.boards[key]

    def days(self) -> Mapping[int, Tally]:
        """The votes by day, for scores over time."""
        return self._seen.days

    def refresh(self) -> bool:
        """Count if votes have come, gone or changed; returns whether they have. Raises StoreUnavailable."""
        version = self._source.version()
        if version == self._seen.version:
            self._seen.as_of = datetime.now(UTC)
            return False
        as_of = datetime.now(UTC)
        tally = self._source.tally()
        self._seen = _Seen(version, as_of, tally, self._source.days())
        if self._on_counts is not None:
            self._on_counts(cells(in_category(tally, CATEGORIES[OVERALL])))
        return True

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._news.clear()
            begun = time.monotonic()
            try:
                self.refresh()
            except StoreUnavailable as error:
                log.warning("the votes could not be counted", extra=kv(why=str(error)))
            took = time.monotonic() - begun
            rest = max(min(_LEAST_REST, self._interval), _REST * took)
            if not self._stopped.wait(rest):
                self._news.wait(max(0.0, self._interval - rest))
