"""The engine of a Source, which computes token ids and nothing else.

Prompts are rendered and tokenized by our tokenizer, texts, stop strings and ends come from OutputTracker. So an answer
reads the same as with the default engine, and greedy answers resume exactly: resumed tokens go to the source as a part
of the prompt. Each choice is a row of its own, since choices may have come to different places.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

from mesh.engine.base import (
    Chat,
    Engine,
    Event,
    Failed,
    Load,
    ModelInfo,
    Request,
    StepListener,
    Text,
    Tokens,
)
from mesh.engine.calls import refuse_call_rule
from mesh.engine.chat import with_template_stops
from mesh.engine.output import OutputTracker, check_token_ids
from mesh.engine.sourced.live import Live
from mesh.engine.sourced.source import Row, Source
from mesh.engine.steps import Steps
from mesh.engine.transformers.loading.text_side import TextSide
from mesh.errors import ErrorKind, MeshError, invalid

_STOP_SECONDS = 10.0
# While no row has tokens to tell, a source says nothing, however long the prompt: then a step is a moment at which the
# first token could have come, so that gateways do not take the worker for frozen.
_BEAT_SECONDS = 0.25
# Seconds after which a source that says nothing is no longer vouched for.
_PATIENCE = 120.0


class SourcedEngine(Engine):
    """See mesh.engine.base.Engine for the contract."""

    def __init__(
        self, source: Source, *, max_rows: int = 64, max_waiting: int = 1024, patience: float = _PATIENCE
    ) -> None:
        """`max_rows` is told as the slots; beyond `max_waiting` rows without a token, requests are refused. A first
        token may take `patience` seconds of silence before this worker looks frozen."""
        self.name = source.name
        self._source = source
        self._max_rows = max_rows
        self._max_waiting = max_waiting
        self._patience = patience
        self._heard_at = 0.0  # from the source, or when it had nothing to say
        self._beat_task: asyncio.Task[None] | None = None
        self._side: TextSide | None = None
        self._info: ModelInfo | None = None
        self._live: dict[int, Live] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._steps = Steps(self.load)
        self._counters = dict.fromkeys(("requests", "prompt_tokens", "cached_tokens", "output_tokens"), 0)

    @property
    def models(self) -> Sequence[ModelInfo]:
        """See Engine."""
        return [self._info] if self._info is not None else []

    # Life

    async def start(self, listener: StepListener) -> None:
        """See Engine."""
        self._side, self._info = await self._source.open()
        self._steps.listener = listener
        self._beat_task = asyncio.create_task(self._beat(), name=f"beat of {self.name}")

    async def stop(self) -> None:
        """See Engine."""
        self._steps.listener = None
        if self._beat_task is not None:
            self._beat_task.cancel()
        for live in self._live.values():
            live.cancel()
        self._live.clear()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_STOP_SECONDS)
        self._info = None
        await self._source.close()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_SECONDS)
            load = self.load()
            if load.waiting and not load.running and time.monotonic() - self._heard_at < self._patience:
                self._steps.number += 1

    async def wait_broken(self) -> None:
        """See Engine."""
        await self._source.broken.wait()

    # Requests

    async def submit(self, request: Request) -> None:
        """See Engine."""
        arrived = time.monotonic()
        side, info = self._serving(request.model)
        self._source.check(request)
        refuse_call_rule(request.prompt)
        check_token_ids(request.sampling, info.vocab_size)
        _check_resume(request, info.vocab_size)
        self._refuse_overload(request.sampling.n)
        request, stops = with_template_stops(request, side.chat)
        if request.constraint is not None:
            # The grammar alone says when it is complete, and an answer that is has no other token than the end.
            # Nor is there any reasoning, so that nobody must look for it.
            request = replace(
                request,
                sampling=replace(request.sampling, min_tokens=0, ignore_eos=False),
                output=replace(request.output, prompt_end=False),
            )
        prompt = _encode(side, request)
        if not prompt or not 0 <= min(prompt) <= max(prompt) < info.vocab_size:
            raise invalid("prompt", f"'prompt' must be token ids from 0 to {info.vocab_size - 1}, at least one")
        tracker = OutputTracker(
            request,
            side.tokenizer,
            prompt_ids=prompt,
            eos_token_ids=info.eos_token_ids,
            context_length=info.context_length,
            template_stops=stops,
            arrived=arrived,
        )
        self._begin(Live(request, tracker, prompt))

    def _serving(self, model: str) -> tuple[TextSide, ModelInfo]:
        if self._side is None or self._info is None or self._steps.listener is None:
            raise MeshError(ErrorKind.DRAINING, "the engine is not running")
        if self._source.broken.is_set():
            raise MeshError(ErrorKind.ENGINE_FAILED, "the engine has broken down")
        if model and model != self._info.name:
            text = f"model '{model}' is not served here: the served model is '{self._info.name}'"
            raise MeshError(ErrorKind.MODEL_NOT_FOUND, text, param="model")
        return self._side, self._info

    def _refuse_overload(self, rows: int) -> None:
        waiting, limit = self.load().waiting, self._max_waiting
        if waiting and waiting + rows > limit:
            text = f"the queue of this worker holds {waiting} rows and takes at most {limit}"
            raise MeshError(ErrorKind.OVERLOADED, text)

    def _begin(self, live: Live) -> None:
        loop = asyncio.get_running_loop()
        if not self._live:
            self._heard_at = time.monotonic()
        self._live[live.key] = live
        self._counters["requests"] += 1
        self._counters["prompt_tokens"] += len(live.prompt)
        if live.request.deadline is not None:
            live.deadline = loop.call_at(live.request.deadline, self._expire, live.key)
        for choice in live.tracker.open_choices:
            task = live.tasks[choice] = loop.create_task(self._row(live, choice))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if not live.tasks:
            loop.call_soon(self._end_at_once, live)

    def _end_at_once(self, live: Live) -> None:
        """Nothing is left to do for a request but to say so."""
        events: list[Event] = []
        live.start(events, 0)
        self._report(live, events)

    async def _row(self, live: Live, choice: int) -> None:
        """One choice from its first new token to its end."""
        try:
            await self._follow(live, choice)
        except Exception as error:
            self._fail(live, error if isinstance(error, MeshError) else self._source.explain(error))

    async def _follow(self, live: Live, choice: int) -> None:
        progress = live.request.resume.get(choice)
        done = progress.token_ids if progress is not None else ()
        ids, tracker = (*live.prompt, *done), live.tracker
        row = Row(live.key, live.request, choice, ids, len(done), tracker.limit, tracker.ending)
        count, last = len(done), -1
        async with aclosing(self._source.follow(row)) as pieces:
            async for piece in pieces:
                self._heard_at = time.monotonic()
                events: list[Event] = []
                if not live.started:
                    self._counters["cached_tokens"] += piece.cached_tokens
                live.start(events, min(piece.cached_tokens, len(live.prompt)))
                live.take(events, choice, piece)
                self._counters["output_tokens"] += len(piece.token_ids)
                count, last = count + len(piece.token_ids), piece.token_ids[-1] if piece.token_ids else last
                self._report(live, events)
                if choice not in tracker.open_choices:
                    return
        # The tokens may still wait for credit, but the end must be among them.
        if count < tracker.limit and last not in tracker.ending:
            raise MeshError(ErrorKind.PROTOCOL_ERROR, f"{self.name} ended an answer before its end")

    def _report(self, live: Live, events: list[Event]) -> None:
        if self._live.get(live.key) is not live:
            return
        if live.tracker.finished:
            self._forget(live.key)
        self._steps.report(events)

    def _fail(self, live: Live, error: MeshError) -> None:
        if self._live.get(live.key) is live:
            self._forget(live.key)
            live.cancel()
            self._steps.report([Failed(live.key, error)])

    def _expire(self, key: int) -> None:
        live = self._live.get(key)
        if live is not None:
            text = "the deadline passed before the answer was complete"
            self._fail(live, MeshError(ErrorKind.DEADLINE_EXCEEDED, text))

    def _forget(self, key: int) -> Live | None:
        live = self._live.pop(key, None)
        if live is not None and live.deadline is not None:
            live.deadline.cancel()
        return live

    def cancel(self, key: int) -> None:
        """See Engine."""
        live = self._forget(key)
        if live is not None:
            live.cancel()
        self._steps.discard(key)

    def grant(self, key: int, tokens: int) -> None:
        """See Engine."""
        live = self._live.get(key)
        if live is not None and live.credit is not None:
            live.credit += tokens
            events: list[Event] = []
            live.release(events)
            self._report(live, events)

    # What is known

    def load(self) -> Load:
        """See Engine. vLLM keeps its queue to itself: rows without a token yet count as waiting."""
        rows = {live: len(live.tasks) for live in self._live.values()}
        waiting = [live for live in rows if not live.started]
        paused = sum(count for live, count in rows.items() if live.paused)
        queued = sum(rows[live] for live in waiting)
        return Load(
            running=sum(rows.values()) - queued - paused,
            waiting=queued,
            paused=paused,
            slots=self._max_rows,
            running_tokens=sum(len(live.prompt) for live in rows if live.started),
            pending_tokens=sum(len(live.prompt) for live in waiting),
            steps=self._steps.number,
        )

    def stats(self) -> dict[str, float]:
        """See Engine."""
        rows = sum(len(live.tasks) for live in self._live.values())
        return {"steps": self._steps.number, "rows_live": rows, **self._counters}

    async def tokenize(self, model: str, prompt: Text | Chat, *, add_special_tokens: bool = True) -> list[int]:
        """See Engine."""
        side, _ = self._serving(model)
        if isinstance(prompt, Chat):
            return side.chat.render(prompt)
        return side.tokenizer.encode(prompt.text, add_special_tokens=add_special_tokens)

    async def detokenize(self, model: str, ids: Sequence[int], *, keep_special_tokens: bool = False) -> str:
        """See Engine."""
        side, _ = self._serving(model)
        return side.tokenizer.decode(ids, keep_special_tokens=keep_special_tokens)

    async def tokenizer_files(self, model: str) -> dict[str, bytes]:
        """See Engine."""
        return await asyncio.to_thread(self._serving(model)[0].chat.files)


def _encode(side: TextSide, request: Request) -> list[int]:
    match request.prompt:
        case Tokens(ids):
            return list(ids)
        case Text(text):
            return side.tokenizer.encode(text)
        case Chat() as chat:
            return side.chat.render(chat)


def _check_resume(request: Request, vocab_size: int) -> None:
    for choice, progress in request.resume.items():
        if not 0 <= choice < request.sampling.n:
            raise invalid("resume", f"'resume' names choice {choice}: must be below 'n' ({request.sampling.n})")
        if progress.token_ids and not 0 <= min(progress.token_ids) <= max(progress.token_ids) < vocab_size:
            raise invalid("resume", f"'resume' must hold token ids from 0 to {vocab_size - 1}")
