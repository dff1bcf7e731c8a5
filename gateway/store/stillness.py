"""Work that others have left: what they do stands still, as seen from here."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.store.shapes import Waiting


class Stillness:
    """Looks at work again and again, and tells what has not changed for `seconds`.

    Told by this process's own clock alone: what others write as the time is by theirs, and clocks of machines differ.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # When each was first seen as it is.
        self._seen: dict[Waiting, float] = {}

    def free(self, waiting: Iterable[Waiting], now: float) -> list[Waiting]:
        """Of all work that there is now, that which nobody does. `now` is in seconds of one monotonic clock."""
        self._seen = {each: self._seen.get(each, now) for each in waiting}
        return [each for each, since in self._seen.items() if each.alive_at is None or now - since >= self._seconds]
