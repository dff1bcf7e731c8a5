"""An engine without a model, for tests, demonstrations and benchmarks: text, speed and faults by option.

Everything around the model is real: tokens, context limit, queue, slots, steps, credit, stop strings, seeds, log
probabilities and exact resume. One task on the event loop makes the steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import os
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mesh.engine.base import (
    Chat,
    Embeddings,
    Engine,
    Event,
    Failed,
    Load,
    ModelInfo,
    Request,
    Step,
    StepListener,
    Text,
    Tokens,
)
from mesh.engine.calls import demands_calls
from mesh.engine.output import OutputTracker, check_token_ids
from mesh.engine.script import END, VOCAB_SIZE, Author, Script, ScriptCodec, ScriptedOptions, text_state
from mesh.engine.script_tokenizer import tokenizer_files
from mesh.engine.uniform import mix
from mesh.errors import ErrorKind, MeshError, invalid, out_of_range, unsupported

if TYPE_CHECKING:
    from mesh.engine.script_grammar import ScriptGrammars

__all__ = ["ScriptedEngine", "ScriptedOptions"]

log = logging.getLogger(__name__)

_CRASH_STATUS = 70
_MAX_DIMENSIONS = 4096
_CAPABILITIES = frozenset({"completion", "chat", "embed", "resume", "logprobs", "tools"})


class _Live:
    """A request that is being served."""

    __slots__ = (
        "credit",
        "deadline",
        "key",
        "prefilled",
        "prompt_tokens",
        "ready",
        "rows",
        "started",
        "top",
        "tracker",
    )

    def __init__(self, request: Request, tracker: OutputTracker, prompt_tokens: int) -> None:
        self.key = request.key
        self.tracker = tracker
        self.prompt_tokens = prompt_tokens
        self.credit = request.credit
        self.deadline = request.deadline
        self.top = request.output.logprobs
        self.rows: list[_Row] = []
        self.started = False
        self.prefilled = False
        self.ready = 0.0  # when the first token may come, once started


class _Row:
    """One choice of a request. `order` is its place in the queue, which it keeps when it is paused."""

    __slots__ = ("choice", "fresh", "live", "order", "position", "script", "stalled")

    def __init__(self, live: _Live, choice: int, position: int, script: Script, order: tuple[int, int, int]) -> None:
        self.live = live
        self.choice = choice
        self.position = position
        self.script = script
        self.order = order
        self.fresh = 0
        self.stalled = False

    def __lt__(self, other: _Row) -> bool:
        return self.order < other.order

    @property
    def context(self) -> int:
        """Its tokens, prompt included."""
        return self.live.prompt_tokens + self.position


class ScriptedEngine(Engine):
    """See the module. Rows are active (part of steps), waiting in the queue, or paused for want of credit."""

    name = "scripted"

    def __init__(self, options: ScriptedOptions) -> None:
        self._options = options
        self._codec = ScriptCodec(vision=options.vision)
        self._author = Author(options, self._codec)
        self._grammars = _grammars(self._codec, options)
        self._random = random.Random(options.jitter_seed)
        self._listener: StepListener | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._submitting: set[int] = set()  # those whose grammar is being compiled
        self._live: dict[int, _Live] = {}
        self._active: list[_Row] = []
        self._waiting: list[_Row] = []  # a heap
        self._paused: list[_Row] = []
        self._complete: list[_Live] = []  # nothing to do for them but to say so
        self._order = 0
        self._active_tokens = 0
        self._pending_tokens = 0
        self._steps = 0
        self._counters = dict.fromkeys(("requests", "prompt_tokens", "output_tokens"), 0)

    @property
    def models(self) -> Sequence[ModelInfo]:
        """See Engine."""
        return [
            ModelInfo(
                name=self._options.name,
                fingerprint=self._author.fingerprint,
                context_length=self._options.context_length,
                capabilities=_capabilities(self._grammars is not None, self._options.vision),
                vocab_size=VOCAB_SIZE,
                eos_token_ids=(END,),
                architecture="Scripted",
                device="cpu",
                execution="packed",
                dialect=self._options.dialect,
            )
        ]

    async def start(self, listener: StepListener) -> None:
        """See Engine."""
        self._listener = listener
        self._task = asyncio.create_task(self._run(), name="scripted engine")
        self._task.add_done_callback(_say_why)

    async def stop(self) -> None:
        """See Engine."""
        self._listener = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def submit(self, request: Request) -> None:
        """See Engine."""
        self._check(request)
        prompt_ids = self._prompt_ids(request)
        held = request.constraint is not None or demands_calls(request)
        if held:
            # The grammar alone says when it is complete.
            request = replace(request, sampling=replace(request.sampling, min_tokens=0, ignore_eos=False))
        tracker = OutputTracker(
            request,
            self._codec,
            prompt_ids=prompt_ids,
            eos_token_ids=(END,),
            context_length=self._options.context_length,
            arrived=time.monotonic(),
        )
        scripts = {choice: self._author.script(request, prompt_ids, choice) for choice in tracker.open_choices}
        if held:
            self._submitting.add(request.key)
            try:
                scripts = await asyncio.to_thread(self._hold, request, prompt_ids, scripts, tracker.limit)
                cancelled = request.key not in self._submitting
            finally:
                self._submitting.discard(request.key)
            if cancelled:
                return
            self._check(request)  # it may have stopped or filled up meanwhile
        live = _Live(request, tracker, len(prompt_ids))
        self._live[request.key] = live
        self._pending_tokens += live.prompt_tokens
        self._counters["requests"] += 1
        for choice, script in scripts.items():
            self._order += 1
            order = (request.priority, self._order, choice)
            row = _Row(live, choice, tracker.count(choice), script, order)
            live.rows.append(row)
            heapq.heappush(self._waiting, row)
        if not live.rows:
            self._complete.append(live)
        self._wake.set()

    def _check(self, request: Request) -> None:
        options, sampling = self._options, request.sampling
        self._check_model(request.model)
        if self._listener is None:
            raise MeshError(ErrorKind.DRAINING, "the engine is not running")
        if options.refuse or len(self._waiting) + sampling.n > options.max_waiting:
            text = f"the queue of this worker holds {len(self._waiting)} rows and takes at most {options.max_waiting}"
            raise MeshError(ErrorKind.OVERLOADED, text, retry_after=1.0)
        if request.adapter is not None:
            raise unsupported("adapter")
        if request.output.prompt_logprobs is not None:
            raise unsupported("prompt_logprobs")
        if sampling.best_of is not None and sampling.best_of != sampling.n:
            raise unsupported("best_of", f"'best_of' must equal 'n' ({sampling.n}) here, not {sampling.best_of}")
        check_token_ids(sampling, VOCAB_SIZE)
        for choice, progress in request.resume.items():
            if not 0 <= choice < sampling.n:
                raise invalid("resume", f"'resume' names choice {choice}: must be below 'n' ({sampling.n})")
            _check_ids("resume", progress.token_ids)

    def _hold(
        self, request: Request, prompt_ids: list[int], scripts: dict[int, Script], limit: int
    ) -> dict[int, Script]:
        if self._grammars is None:
            raise unsupported("constraint", "'constraint' needs the package llguidance, which this worker lacks")
        constraint = self._grammars.constraint(request, prompt_ids)
        return {choice: self._grammars.hold(script, constraint, limit) for choice, script in scripts.items()}

    def _check_model(self, model: str) -> None:
        if model and model != self._options.name:
            text = f"model '{model}' is not served here: the served model is '{self._options.name}'"
            raise MeshError(ErrorKind.MODEL_NOT_FOUND, text, param="model")

    def _prompt_ids(self, request: Request) -> list[int]:
        match request.prompt:
            case Tokens(ids):
                _check_ids("prompt", ids)
                if not ids:
                    raise invalid("prompt", "'prompt' must have at least 1 token, not 0")
                return list(ids)
            case Text(text):
                return self._codec.encode(text)
            case Chat() as chat:
                return self._codec.render(chat)

    def cancel(self, key: int) -> None:
        """See Engine."""
        self._submitting.discard(key)
        live = self._live.get(key)
        if live is not None:
            self._drop(live)
            self._wake.set()  # there may be room for others

    def grant(self, key: int, tokens: int) -> None:
        """See Engine."""
        live = self._live.get(key)
        if live is None or live.credit is None:
            return
        live.credit += tokens
        back = [row for row in self._paused if row.live is live]
        if back and live.credit > 0:
            self._paused = [row for row in self._paused if row.live is not live]
            for row in back:
                heapq.heappush(self._waiting, row)
            self._wake.set()

    def load(self) -> Load:
        """See Engine."""
        slots = self._options.slots
        return Load(
            running=len(self._active),
            waiting=len(self._waiting),
            paused=len(self._paused),
            slots=slots,
            running_tokens=self._active_tokens,
            pending_tokens=self._pending_tokens,
            kv_used=min(1.0, self._active_tokens / (slots * self._options.context_length)),
            steps=self._steps,
        )

    def stats(self) -> dict[str, float]:
        """See Engine."""
        rows = len(self._active) + len(self._waiting) + len(self._paused)
        return {"steps": self._steps, "rows_live": rows, **self._counters}

    # Steps

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        interval, jitter = self._options.step_interval, self._options.jitter
        due = loop.time()
        while True:
            if not self._step():
                await self._wait_for_work()
                due = loop.time()
                continue
            due += interval * (1 + jitter * self._random.uniform(-1, 1)) if jitter else interval
            late = loop.time() - due
            if late >= 0:
                due += late  # a step that took too long is not made up for
            await asyncio.sleep(max(0.0, -late))

    async def _wait_for_work(self) -> None:
        """Until something is submitted or granted, a first token is due, or a deadline passes."""
        self._wake.clear()
        now = time.monotonic()
        moments = [live.deadline for live in self._live.values() if live.deadline is not None]
        moments += [row.live.ready for row in self._active if not row.live.prefilled and not row.stalled]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(moments) - now) if moments else None):
                await self._wake.wait()

    def _step(self) -> bool:
        """Make and report one step; False if there was nothing to do."""
        now = time.monotonic()
        events: list[Event] = []
        self._expire(events, now)
        self._admit(events, now)
        options = self._options
        faulty = not (options.fail_after is options.stall_after is options.crash_after is None)
        pushed = 0
        for row in self._active.copy():
            if faulty and self._fault(events, row):
                continue
            pushed += self._advance(events, row, now)
        paused = self._pause()
        if not events:
            return paused  # then there is room for others
        self._steps += 1
        self._counters["output_tokens"] += pushed
        assert self._listener is not None
        self._listener(Step(self._steps, events, self.load()))
        return True

    def _expire(self, events: list[Event], now: float) -> None:
        late = [live for live in self._live.values() if live.deadline is not None and live.deadline <= now]
        for live in late:
            self._drop(live)
            error = MeshError(ErrorKind.DEADLINE_EXCEEDED, "the deadline passed before the answer was complete")
            events.append(Failed(live.key, error))

    def _admit(self, events: list[Event], now: float) -> None:
        for live in self._complete:
            self._start(events, live, now)
        self._complete.clear()
        while self._waiting and len(self._active) < self._options.slots:
            row = heapq.heappop(self._waiting)
            if not row.live.started:
                self._start(events, row.live, now)
            self._active.append(row)
            self._active_tokens += row.context

    def _start(self, events: list[Event], live: _Live, now: float) -> None:
        live.started = True
        live.ready = now + self._options.first_token_delay
        self._counters["prompt_tokens"] += live.prompt_tokens
        live.tracker.started(events, now)
        if live.tracker.finished:
            self._drop(live)

    def _fault(self, events: list[Event], row: _Row) -> bool:
        """Whether a fault of the options keeps the row from its next token."""
        options = self._options
        if row.fresh == options.crash_after:
            os._exit(_CRASH_STATUS)
        if row.fresh == options.fail_after and row.live.key in self._live:
            self._drop(row.live)
            text = f"failed after {row.fresh} tokens, as told by 'fail_after'"
            events.append(Failed(row.live.key, MeshError(ErrorKind.ENGINE_FAILED, text)))
        row.stalled = row.fresh == options.stall_after
        return row.stalled or row.live.key not in self._live

    def _advance(self, events: list[Event], row: _Row, now: float) -> int:
        """Give a row its next token, if it may have one; the number of tokens given."""
        live = row.live
        if not live.prefilled:
            if now < live.ready:
                return 0
            live.prefilled = True
            self._pending_tokens -= live.prompt_tokens
        if live.credit is not None:
            if live.credit <= 0:
                return 0
            live.credit -= 1
        position = row.position
        token_id = row.script.token(position)
        logprob = None if live.top is None else row.script.logprob(position, token_id, live.top)
        row.position = position + 1
        row.fresh += 1
        self._active_tokens += 1
        if live.tracker.push(events, row.choice, token_id, now, logprob):
            self._leave(row)
            live.rows.remove(row)
            if live.tracker.finished:
                del self._live[live.key]
        return 1

    def _pause(self) -> bool:
        """Set the rows without credit aside; whether there were any."""
        dry = [row for row in self._active if row.live.credit is not None and row.live.credit <= 0]
        for row in dry:
            self._leave(row)
        self._paused += dry
        return bool(dry)

    def _leave(self, row: _Row) -> None:
        self._active.remove(row)
        self._active_tokens -= row.context

    def _drop(self, live: _Live) -> None:
        """Forget a request and all its rows."""
        del self._live[live.key]
        if not live.prefilled:
            self._pending_tokens -= live.prompt_tokens
        for row in live.rows:
            if row in self._active:
                self._leave(row)
        self._waiting = [row for row in self._waiting if row.live is not live]
        heapq.heapify(self._waiting)
        self._paused = [row for row in self._paused if row.live is not live]
        self._complete = [other for other in self._complete if other is not live]

    # Besides generation

    async def tokenize(self, model: str, prompt: Text | Chat, *, add_special_tokens: bool = True) -> list[int]:
        """See Engine."""
        self._check_model(model)
        if isinstance(prompt, Chat):
            return self._codec.render(prompt)
        return self._codec.encode(prompt.text, add_special_tokens=add_special_tokens, param="text")

    async def detokenize(self, model: str, ids: Sequence[int], *, keep_special_tokens: bool = False) -> str:
        """See Engine."""
        self._check_model(model)
        return self._codec.decode(ids, keep_special_tokens=keep_special_tokens)

    async def tokenizer_files(self, model: str) -> dict[str, bytes]:
        """See Engine."""
        self._check_model(model)
        return tokenizer_files()

    async def embed(
        self,
        model: str,
        inputs: Sequence[Text | Tokens],
        *,
        dimensions: int | None,
        normalize: bool | None,
        truncate: bool,
    ) -> Embeddings:
        """See Engine. Vectors are made up from a hash of the tokens."""
        self._check_model(model)
        size = self._options.embedding_size if dimensions is None else dimensions
        if not 1 <= size <= _MAX_DIMENSIONS:
            raise out_of_range("dimensions", size, 1, _MAX_DIMENSIONS)
        lists = [self._input_ids(one, truncate) for one in inputs]
        vectors = [_vector(ids, size, unit=normalize is not False) for ids in lists]
        return Embeddings(vectors, sum(map(len, lists)))

    def _input_ids(self, one: Text | Tokens, truncate: bool) -> Sequence[int]:
        if isinstance(one, Tokens):
            _check_ids("inputs", one.ids)
        ids = one.ids if isinstance(one, Tokens) else self._codec.encode(one.text, param="inputs")
        limit = self._options.context_length
        if len(ids) > limit and not truncate:
            text = f"an input has {len(ids)} tokens: this model's maximum context length is {limit} tokens"
            raise MeshError(ErrorKind.CONTEXT_LENGTH_EXCEEDED, text, param="inputs")
        return ids[:limit]


def _capabilities(constraint: bool, vision: bool) -> frozenset[str]:
    return _CAPABILITIES.union({"constraint"} if constraint else (), {"vision"} if vision else ())


def _grammars(codec: ScriptCodec, options: ScriptedOptions) -> ScriptGrammars | None:
    try:
        from mesh.engine.script_grammar import ScriptGrammars
    except ImportError:  # llguidance, which the smallest installation does without
        return None
    return ScriptGrammars(codec, options.dialect)


def _say_why(task: asyncio.Task[None]) -> None:
    """Steps end only when they are told to; anything else must not go unseen."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("the scripted engine makes no more steps", exc_info=error)


def _check_ids(param: str, ids: Sequence[int]) -> None:
    if ids and not 0 <= min(ids) <= max(ids) < VOCAB_SIZE:
        raise invalid(param, f"'{param}' holds token ids outside of 0 to {VOCAB_SIZE - 1}")


def _vector(ids: Sequence[int], size: int, *, unit: bool) -> list[float]:
    state = text_state(ids)
    values = [(mix(state ^ place) >> 11) * 2.0**-52 - 1.0 for place in range(size)]
    length = sum(value * value for value in values) ** 0.5 if unit else 1.0
    return [value / length for value in values]
