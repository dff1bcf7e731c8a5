"""Steady traffic during a fault: clients that ask again and again and compare each answer with the first one."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Self

from tests.e2e.answers import Answer, Body, ask


class Traffic:
    """`clients` tasks that send `body` in a loop while the context lasts.

    An answer that differs from `expected`, an error, a cut stream: each is kept in `failures`. Leaving the context lets
    requests that are under way end, and waits for them.
    """

    def __init__(self, url: str, body: Body, expected: Answer, *, clients: int = 4, pause: float = 0.05) -> None:
        self.answers = 0
        self.failures: list[str] = []
        self.slowest = 0.0
        self._url = url
        self._body = body
        self._expected = expected
        self._clients = clients
        self._pause = pause
        self._stop = asyncio.Event()
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        for _ in range(self._clients):
            self._group.create_task(self._client())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        await self._group.__aexit__(kind, error, trace)

    async def _client(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                answer = await ask(self._url, self._body)
                if answer.seen != self._expected.seen:
                    self.failures.append(f"another answer: {answer}")
            except Exception as error:
                self.failures.append(f"after {time.monotonic() - began:.2f} s: {error!r}")
            self.answers += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            await asyncio.sleep(self._pause)  # a client's pause between two questions, not a wait for anything

    def check(self, at_least: int) -> None:
        """All requests so far were answered, and there were that many."""
        assert not self.failures, self.failures[:5]
        assert self.answers >= at_least, f"only {self.answers} answers"
