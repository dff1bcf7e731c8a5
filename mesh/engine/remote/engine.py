"""The engine of a model that a provider runs: requests go out over HTTP, text comes back.

A provider tells no token ids. So an answer cannot be resumed, and the model has no capability `resume`; there is no
tokenizer here either.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import logging
from collections.abc import Sequence
from typing import Any, Final

import httpx

from mesh.engine.base import (
    Engine,
    Event,
    Failed,
    Finished,
    Load,
    ModelInfo,
    Request,
    StepListener,
)
from mesh.engine.remote.anthropic import Anthropic
from mesh.engine.remote.call import Call
from mesh.engine.remote.google import Google
from mesh.engine.remote.openai import OpenAI
from mesh.engine.remote.options import RemoteOptions
from mesh.engine.remote.provider import OWN_URL, Provider
from mesh.engine.steps import Steps
from mesh.errors import ErrorKind, MeshError
from mesh.log import kv

log = logging.getLogger(__name__)

_PROVIDERS: Final = {"openai": OpenAI, "anthropic": Anthropic, "google": Google}
_CONNECT_SECONDS = 10.0
_STOP_SECONDS = 5.0
# A step is a moment at which anything could have come. Gateways take a worker whose steps stand still for frozen; how
# long a provider may be silent is judged here, by RemoteOptions.timeout.
_BEAT_SECONDS = 0.25


class _Live:
    """A request that is being served, and its task once it has a place."""

    __slots__ = ("body", "call", "deadline", "order", "path", "task")

    def __init__(self, call: Call, order: int, path: str, body: dict[str, Any]) -> None:
        self.call = call
        self.order = (call.priority, order)
        self.path = path
        self.body = body
        self.task: asyncio.Task[None] | None = None
        self.deadline: asyncio.TimerHandle | None = None

    def __lt__(self, other: _Live) -> bool:
        return self.order < other.order


class RemoteEngine(Engine):
    """See mesh.engine.base.Engine for the contract. Everything runs on the event loop."""

    name = "remote"

    def __init__(self, options: RemoteOptions) -> None:
        self._options = options
        self._provider: Provider = _PROVIDERS[options.provider](options)
        self._url = (options.base_url or OWN_URL[options.provider]).rstrip("/")
        self._client: httpx.AsyncClient | None = None
        self._steps = Steps(self.load)
        self._beat_task: asyncio.Task[None] | None = None
        self._live: dict[int, _Live] = {}
        self._placed: dict[int, Call] = {}  # the ones with a connection of their own
        self._waiting: list[_Live] = []  # a heap
        self._waiting_rows = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._order = 0
        names = ("requests", "failures", "prompt_tokens", "cached_tokens", "output_tokens", "answers_without_usage")
        self._counters = dict.fromkeys(names, 0)

    @property
    def models(self) -> Sequence[ModelInfo]:
        """See Engine. Context length and vocabulary are 0, not known, unless they were given."""
        options = self._options
        identity = "\n".join((options.provider, self._url, options.model))
        return [
            ModelInfo(
                name=options.name,
                fingerprint=f"remote:{hashlib.sha256(identity.encode()).hexdigest()}",
                context_length=options.context_length or 0,
                capabilities=self._provider.capabilities,
                vocab_size=0,
                architecture=f"{options.provider}:{options.model}",
            )
        ]

    # Life

    async def start(self, listener: StepListener) -> None:
        """See Engine. The provider is not asked: one that is down for a moment must not keep a worker from starting."""
        logging.getLogger("httpx").setLevel(logging.WARNING)  # else a line for each request
        try:
            self._client = httpx.AsyncClient(
                base_url=self._url,
                headers={
                    "content-type": "application/json",
                    "accept": "text/event-stream",
                    **self._provider.headers(self._options.key),
                },
                # The time of everything else is measured by the call.
                timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=self._options.slots),
            )
        except httpx.InvalidURL as error:
            raise MeshError(
                ErrorKind.INVALID_REQUEST, f"--base-url is not a valid URL: {error}", param="base_url"
            ) from None
        self._steps.listener = listener
        self._beat_task = asyncio.create_task(self._beat(), name="remote engine")
        log.info("model is remote", extra=kv(provider=self._options.provider, url=self._url, model=self._options.model))

    async def stop(self) -> None:
        """See Engine."""
        self._steps.listener = None
        for key in list(self._live):
            self.cancel(key)
        tasks = [*self._tasks, *([self._beat_task] if self._beat_task else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_SECONDS)
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_SECONDS)
            if self._tasks:
                self._steps.number += 1

    # Requests

    async def submit(self, request: Request) -> None:
        """See Engine."""
        if self._client is None or self._steps.listener is None:
            raise MeshError(ErrorKind.DRAINING, "the engine is not running")
        if request.model and request.model != self._options.name:
            text = f"model '{request.model}' is not served here: the served model is '{self._options.name}'"
            raise MeshError(ErrorKind.MODEL_NOT_FOUND, text, param="model")
        body = self._provider.body(request)
        self._refuse_overload(request.sampling.n)
        answer = self._provider.answer(request)
        call = Call(request, answer, self._emit, timeout=self._options.timeout, key=self._options.key)
        self._order += 1
        live = self._live[request.key] = _Live(call, self._order, self._provider.path(request), body)
        if request.deadline is not None:
            loop = asyncio.get_running_loop()  # whose clock is time.monotonic()
            live.deadline = loop.call_at(request.deadline, self._expire, request.key)
        heapq.heappush(self._waiting, live)
        self._waiting_rows += call.rows
        self._counters["requests"] += 1
        self._admit()

    def _refuse_overload(self, rows: int) -> None:
        limit = self._options.max_waiting
        if self._waiting_rows and self._waiting_rows + rows > limit:
            text = f"the queue of this worker holds {self._waiting_rows} rows and takes at most {limit}"
            raise MeshError(ErrorKind.OVERLOADED, text)

    def _admit(self) -> None:
        """Start what there is room for, one that is larger than all room when it is alone."""
        while self._waiting and self._client is not None:
            rows = self._rows()
            if rows and rows + self._waiting[0].call.rows > self._options.slots:
                return
            live = heapq.heappop(self._waiting)
            self._waiting_rows -= live.call.rows
            self._placed[live.call.key] = live.call
            live.task = asyncio.create_task(live.call.run(self._client, live.path, live.body))
            self._tasks.add(live.task)
            live.task.add_done_callback(self._ended)

    def _rows(self) -> int:
        """Rows that have a place."""
        return sum(call.rows for call in self._placed.values())

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a call ended in a way that it should not", exc_info=task.exception())

    def _expire(self, key: int) -> None:
        if key in self._live:
            error = MeshError(ErrorKind.DEADLINE_EXCEEDED, "the deadline passed before the answer was complete")
            self._drop(key)
            self._steps.report([Failed(key, error)])

    def cancel(self, key: int) -> None:
        """See Engine. The provider's connection is closed, which is how it learns of it."""
        self._drop(key)
        self._steps.discard(key)

    def grant(self, key: int, tokens: int) -> None:
        """See Engine."""
        live = self._live.get(key)
        if live is not None:
            live.call.grant(tokens)

    def _drop(self, key: int) -> None:
        """End a request, whatever its state."""
        live = self._forget(key)
        if live is None:
            return
        if live.task is not None:
            live.task.cancel()
        else:
            self._waiting.remove(live)
            heapq.heapify(self._waiting)
            self._waiting_rows -= live.call.rows
        self._admit()

    def _forget(self, key: int) -> _Live | None:
        live = self._live.pop(key, None)
        self._placed.pop(key, None)
        if live is not None and live.deadline is not None:
            live.deadline.cancel()
        return live

    # Events

    def _emit(self, event: Event) -> None:
        """What a call reports."""
        if event.key not in self._live:
            return
        if isinstance(event, Finished | Failed):
            self._count(event)
            self._forget(event.key)
            self._admit()
        self._steps.report([event])

    def _count(self, event: Finished | Failed) -> None:
        if isinstance(event, Failed):
            self._counters["failures"] += 1
            return
        self._counters["prompt_tokens"] += event.prompt_tokens
        self._counters["cached_tokens"] += event.cached_tokens
        self._counters["output_tokens"] += event.completion_tokens
        self._counters["answers_without_usage"] += not event.prompt_tokens

    def load(self) -> Load:
        """See Engine."""
        paused = sum(call.rows for call in self._placed.values() if call.paused)
        return Load(
            running=self._rows() - paused,
            waiting=self._waiting_rows,
            paused=paused,
            slots=self._options.slots,
            steps=self._steps.number,
        )

    def stats(self) -> dict[str, float]:
        """See Engine."""
        rows = self._rows() + self._waiting_rows
        return {"steps": self._steps.number, "rows_live": rows, **self._counters}
