"""Many requests at once: so many at a time, or begun at random times whether or not earlier ones are answered."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from mesh.cli.answering.endpoint import Answer, Endpoint, sentence
from mesh.errors import MeshError

# After a stop each answer under way ends at its next piece.
_STOP_LIMIT = 5.0


class Load:
    """Sends the requests from threads of its own. What is done and what is under way can be read at any time."""

    def __init__(self, endpoint: Endpoint, bodies: Sequence[dict[str, Any]], seed: int) -> None:
        self.planned = len(bodies)
        self.answers: list[Answer] = []
        self.errors: list[str] = []
        self.running: set[Answer] = set()
        self.began = self.ended = time.monotonic()
        self._endpoint = endpoint
        self._bodies = iter(bodies)
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        # Counted, not joined: a join that Ctrl-C interrupts leaves its thread marked as ended while it runs on.
        self._threads = 0
        self._thread_ended = threading.Condition(self._lock)

    def start_closed(self, concurrency: int) -> None:
        """Keep so many under way until all are sent."""
        for _ in range(min(concurrency, self.planned)):
            self._run(self._one_after_another)

    def start_open(self, rate: float) -> None:
        """Begin them at random times, `rate` a second in the mean (a Poisson process)."""
        self._run(partial(self._arrivals, rate))

    def wait(self, seconds: float) -> bool:
        """Wait for the end, at most so long; returns whether it has come."""
        with self._thread_ended:
            return self._thread_ended.wait_for(lambda: self._threads == 0, seconds)

    def stop(self) -> None:
        """Send no more, and break off what is under way."""
        self._stopped.set()
        self.wait(_STOP_LIMIT)

    @property
    def tokens(self) -> int:
        """Tokens of all answers so far."""
        with self._lock:
            return sum(answer.tokens for answer in [*self.answers, *self.running])

    @property
    def seconds(self) -> float:
        """From the start to now, or to the last answer."""
        return (time.monotonic() if self.running else self.ended) - self.began

    def _run(self, work: Callable[[], None]) -> None:
        with self._lock:
            self._threads += 1
        try:
            threading.Thread(target=self._thread, args=(work,), daemon=True).start()
        except RuntimeError as problem:  # the system gives no more of them
            with self._lock:
                self._threads -= 1
                self.errors.append(str(problem))

    def _thread(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            with self._thread_ended:
                self._threads -= 1
                self._thread_ended.notify_all()

    def _one_after_another(self) -> None:
        for body in self._remaining():
            self._send(body, time.monotonic())

    def _arrivals(self, rate: float) -> None:
        due = self.began
        for body in self._remaining():
            due += self._random.expovariate(rate)
            if self._stopped.wait(max(0.0, due - time.monotonic())):
                return
            self._run(partial(self._send, body, due))

    def _remaining(self) -> Iterator[dict[str, Any]]:
        while not self._stopped.is_set():
            with self._lock:
                body = next(self._bodies, None)
            if body is None:
                return
            yield body

    def _send(self, body: dict[str, Any], due: float) -> None:
        """One request, timed from when it was due: a client that is late must not make the server look quick."""
        answer, error = Answer(due), None
        with self._lock:
            self.running.add(answer)
        try:
            with contextlib.closing(self._endpoint.answer(body)) as events:
                for event in events:
                    answer.take(event)
                    if self._stopped.is_set():
                        break
        except (MeshError, OSError) as problem:
            error = sentence(problem)
        with self._lock:
            self.running.discard(answer)
            self.ended = time.monotonic()
            if error is not None:
                self.errors.append(error)
            elif answer.end is not None:
                self.answers.append(answer)


def prompts(count: int, words: int, seed: int) -> list[str]:
    """Made-up texts of so many words, no two alike, so that no cache of earlier prompts helps."""
    source = random.Random(seed)

    def word() -> str:
        return "".join(source.choice("bdfgklmnprstvz") + source.choice("aeiou") for _ in range(2))

    return [" ".join(word() for _ in range(words)) for _ in range(count)]
