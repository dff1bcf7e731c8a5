"""One request on its way to the provider and back."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, cast

import httpx
from httpx_sse import EventSource, SSEError

from mesh.engine.base import ChoiceFinished, Delta, Event, Failed, Finished, Request, Started
from mesh.engine.remote.answer import Answer, broken
from mesh.engine.remote.failure import from_response
from mesh.errors import MeshError

log = logging.getLogger(__name__)

# How much of a refusal is read.
_REFUSAL_BYTES = 65536
# What a provider may take to end the connection's part of an answer that is there, so that the connection can be kept.
_TAIL_SECONDS = 1.0


class Call:
    """Serves one request. `run` reports to `emit` and never raises but when it is cancelled.

    Nothing is read from the provider while the request has no credit, so that its server stops writing in turn.
    """

    def __init__(
        self, request: Request, answer: Answer, emit: Callable[[Event], None], *, timeout: float, key: str | None
    ) -> None:
        """`timeout` is in seconds without news from the provider; `key` is what no message may show."""
        self.key = request.key
        self.rows = request.sampling.n
        self.priority = request.priority
        self.answer = answer
        self.credit = request.credit
        self.paused = False
        self.pieces = 0
        self._emit = emit
        self._timeout = timeout
        self._secret = key
        self._granted = asyncio.Event()
        self._arrived = self._start = self._first = self._last = time.monotonic()
        self._started = False
        self._finished = False

    def grant(self, tokens: int) -> None:
        """Allow more pieces of text, each of which counts as one token."""
        if self.credit is not None:
            self.credit += tokens
            self._granted.set()

    async def run(self, client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
        """Ask and pass on what comes."""
        self._start = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout) as silence:
                await self._ask(client, path, body, silence)
        except MeshError as error:
            self._fail(error)
        except TimeoutError:
            self._fail(broken(f"the provider sent nothing for {self._timeout:g} s"))
        except (httpx.HTTPError, httpx.StreamError, SSEError) as error:
            self._fail(broken(f"the connection to the provider broke: {_shown(error)}"))
        except Exception:
            log.exception("a provider's answer could not be read")
            self._fail(broken("the provider's answer could not be read"))

    async def _ask(self, client: httpx.AsyncClient, path: str, body: dict[str, Any], silence: asyncio.Timeout) -> None:
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        async with client.stream("POST", path, content=content) as response:
            if response.status_code != 200:
                raise from_response(response.status_code, response.headers, await _refusal(response), self._secret)
            async with aclosing(EventSource(response).aiter_sse()) as events:
                async for event in events:
                    pieces = self.answer.read(event.event, event.data)
                    await self._pass_on(pieces, silence)
                    if self.answer.done:
                        self._finish()
                        self._allow(silence, _TAIL_SECONDS)
                    elif event.event != "ping":  # which says that the connection lives, not that the answer goes on
                        self._allow(silence, self._timeout)
        self._finish()

    async def _pass_on(self, pieces: list[tuple[int, str]], silence: asyncio.Timeout) -> None:
        """Report text as far as there is credit; waiting for more is not the provider's time."""
        self._begin()
        for choice, text in pieces:
            while self.credit is not None and self.credit <= 0:
                silence.reschedule(None)
                self.paused = True
                self._granted.clear()
                await self._granted.wait()
            self.paused = False
            if self.credit is not None:
                self.credit -= 1
            self._last = time.monotonic()
            if not self.pieces:
                self._first = self._last
            self.pieces += 1
            self._emit(Delta(self.key, choice, (), text))

    @staticmethod
    def _allow(silence: asyncio.Timeout, seconds: float) -> None:
        silence.reschedule(asyncio.get_running_loop().time() + seconds)

    def _begin(self) -> None:
        if not self._started:
            self._started = True
            usage = self.answer.usage
            self._emit(Started(self.key, usage.prompt, usage.cached, text_only=True))

    def _finish(self) -> None:
        """All is there. The ends of the choices wait for the counts, which come last."""
        if self._finished:
            return
        answer = self.answer
        if not answer.complete:
            raise broken("the provider ended its answer before it was complete")
        self._finished = True
        self._begin()
        for choice, end in sorted(answer.ends.items()):
            self._emit(ChoiceFinished(self.key, choice, end.reason, stop_string=end.stop_string))
        self._emit(
            Finished(
                self.key,
                prompt_tokens=answer.usage.prompt,
                completion_tokens=answer.usage.completion,
                cached_tokens=answer.usage.cached,
                queue_time=self._start - self._arrived,
                prefill_time=self._first - self._start if self.pieces else 0.0,
                decode_time=self._last - self._first if self.pieces else 0.0,
            )
        )

    def _fail(self, error: MeshError) -> None:
        if not self._finished:
            self._finished = True
            self._emit(Failed(self.key, error))


async def _refusal(response: httpx.Response) -> bytes:
    """The body of a refusal, its beginning if it is long."""
    body = b""
    chunks = cast("AsyncGenerator[bytes]", response.aiter_bytes())
    async with aclosing(chunks):
        async for chunk in chunks:
            body += chunk
            if len(body) >= _REFUSAL_BYTES:
                break
    return body[:_REFUSAL_BYTES]


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
