"""transformers' progress bars as short sentences."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

from transformers.utils import logging as hf_logging

Report = Callable[[str], None]

_REPORT_EVERY: Final = 2.0  # seconds


class _Bar:
    """Stands where transformers wants a tqdm bar, and reports what it is told every two seconds."""

    def __init__(self, report: Report, iterable: Iterable[Any] | None, total: int | None, desc: str) -> None:
        self._report = report
        self._iterable = iterable
        self._total = total if total is not None else len(cast(list[Any], iterable)) if iterable is not None else 0
        self._desc = desc
        self._done = 0
        self._next = time.monotonic() + _REPORT_EVERY

    def __iter__(self) -> Iterator[Any]:
        for item in self._iterable or ():
            yield item
            self.update()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        # close, set_description, set_postfix, refresh, …: looks, of which there are none here.
        return lambda *_args, **_kwargs: None

    def update(self, count: int = 1) -> None:
        self._done += count
        now = time.monotonic()
        if self._total and now >= self._next:
            self._next = now + _REPORT_EVERY
            self._report(f"{self._desc.lower()}: {100 * self._done // self._total} %")


@contextmanager
def reported(progress: Report) -> Generator[None]:
    """While this lasts, transformers' progress bars go to `progress` (where this version of it allows that)."""
    set_hook = getattr(hf_logging, "set_tqdm_hook", None)
    if set_hook is None:
        yield
        return

    def make(_factory: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Bar:
        iterable = args[0] if args else kwargs.get("iterable")
        return _Bar(progress, iterable, kwargs.get("total"), kwargs.get("desc") or "loading")

    previous = set_hook(make)
    try:
        yield
    finally:
        set_hook(previous)
