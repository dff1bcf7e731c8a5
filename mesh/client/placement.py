"""Where one request may run next, and when it is to be given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mesh.client.worker import Worker
from mesh.client.workers import Workers
from mesh.errors import ErrorKind, MeshError, deadline_passed
from mesh.v1.inference_pb2 import Capability

# Wait at most so many seconds before the workers are looked at again: one that rests may be ready.
_LOOK = 0.1
# Seconds after a deadline in which the worker may tell that it has passed.
_WORKERS_OWN_WORD = 0.5
_NEVER_HERE = frozenset({ErrorKind.MODEL_NOT_FOUND, ErrorKind.WRONG_MODEL})


@dataclass(frozen=True, slots=True)
class Limits:
    """When a request is given up.

    patience: seconds for which it waits for a worker, at first and after each fault.
    attempts: workers that may break after they had begun it. A request that kills workers must not kill them all.
    credit: tokens that a worker may send ahead of the reader.
    """

    patience: float = 30.0
    attempts: int = 4
    credit: int = 256


class Placement:
    """The search of one request for a worker. `timeout`: seconds after which its answer is of no use, or None."""

    def __init__(
        self,
        workers: Workers,
        model: str,
        needs: Collection[Capability],
        limits: Limits,
        timeout: float | None = None,
    ) -> None:
        self.fingerprint = ""
        self.needs = set(needs)
        self._workers = workers
        self._model = model
        self._limits = limits
        self._timeout = timeout
        now = asyncio.get_running_loop().time()
        self._deadline = now + timeout if timeout is not None else None
        self._until = now + limits.patience
        self._begun = False
        self._failures = 0
        self._avoid: set[Worker] = set()
        self._never: set[Worker] = set()
        self._last: MeshError | None = None

    @property
    def seconds_left(self) -> float | None:
        """Until the deadline. Raises MeshError once it has passed."""
        if self._deadline is None or self._timeout is None:
            return None
        left = self._deadline - asyncio.get_running_loop().time()
        if left <= 0:
            raise deadline_passed(self._timeout)
        return left

    @asynccontextmanager
    async def deadline(self) -> AsyncGenerator[None]:
        """A block that ends with MeshError when the deadline passes meanwhile and the worker does not say so."""
        limit = None if self._deadline is None else self._deadline + _WORKERS_OWN_WORD
        try:
            async with asyncio.timeout_at(limit):
                yield
        except TimeoutError:
            raise deadline_passed(self._timeout or 0.0) from None

    async def find(self) -> Worker:
        """The next worker to ask; waits for one. Raises MeshError when there is none in time."""
        while True:
            worker = self._choose()
            if worker is not None:
                self._begun = False
                return worker
            left = self._until - asyncio.get_running_loop().time()
            if left <= 0:
                raise self._last or MeshError(
                    ErrorKind.NO_WORKER,
                    f"no worker of the model '{self._model}' took the request within {self._limits.patience:g} s",
                )
            if not self.fingerprint and not self._workers.knows(self._model, self._never):
                raise self._last or MeshError(
                    ErrorKind.MODEL_NOT_FOUND, f"no worker serves the model '{self._model}'", param="model"
                )
            await self._workers.change(min(left, _LOOK, self.seconds_left or left))

    def elsewhere(self, here: Worker) -> bool:
        """Whether another worker could go on now."""
        other = self._choose()
        return other is not None and other is not here

    def began(self, worker: Worker) -> None:
        """The worker answers."""
        self._begun = True
        worker.went_well()
        self._until = asyncio.get_running_loop().time() + self._limits.patience

    def left(self, worker: Worker, error: MeshError) -> None:
        """An attempt is over without an end. Raises the error if no other attempt would help."""
        if not error.kind.value.retry_elsewhere and error.kind is not ErrorKind.MODEL_NOT_FOUND:
            raise error
        self._last = error
        if error.kind in _NEVER_HERE:
            self._never.add(worker)
            return
        self._avoid.add(worker)
        worker.rest(error.retry_after)
        if self._begun and error.kind is not ErrorKind.DRAINING:
            self._failures += 1
            self._until = asyncio.get_running_loop().time() + self._limits.patience
            if self._failures >= self._limits.attempts:
                raise error

    def _choose(self) -> Worker | None:
        return self._workers.choose(
            self._model, fingerprint=self.fingerprint, needs=self.needs, avoid=self._avoid, never=self._never
        )
