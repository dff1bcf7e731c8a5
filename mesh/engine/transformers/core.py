"""One engine step after the other: schedule, forward, sample, and what follows from the sampled tokens.

All of it runs on the engine's thread. What happened leaves as one Report per step.
"""

from __future__ import annotations

import heapq
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from mesh.engine.base import Load
from mesh.engine.output import RawLogprob
from mesh.engine.sampler import OnTokens, Sampler
from mesh.engine.transformers.recovery import (
    ForwardError,
    failure_of,
    give_credit_back,
    is_out_of_memory,
    try_alone,
)
from mesh.engine.transformers.runners.runner import Runner
from mesh.engine.transformers.scheduling.sampling import Outcome, sample_step
from mesh.engine.transformers.scheduling.scheduler import Scheduler
from mesh.engine.transformers.scheduling.sequence import Batch, Row, Work
from mesh.errors import ErrorKind, MeshError

log = logging.getLogger(__name__)

# A wait without a timer's limit overflows: a call without a deadline comes with one in thousands of years.
_MOST_PATIENCE = 3600.0
# Entries of ended requests that the deadlines may hold beyond one for each live request.
_SPARE_DEADLINES = 16


@dataclass(slots=True)
class NewToken:
    """One sampled token. `ended` says that the engine has let the row go with it."""

    key: int
    choice: int
    token_id: int
    logprob: RawLogprob | None
    ended: bool


@dataclass(slots=True)
class Report:
    """What one step did. `now` is a time of time.monotonic(); a report without a step has failures or starts only.

    `broken` is the last report of an engine that cannot go on.
    """

    number: int
    now: float
    load: Load
    started: list[Work] = field(default_factory=list[Work])
    tokens: list[NewToken] = field(default_factory=list[NewToken])
    failures: list[tuple[int, MeshError]] = field(default_factory=list[tuple[int, MeshError]])
    broken: bool = False


@dataclass(slots=True)
class Counters:
    """Counts since start; times in seconds. On CUDA the forward is only launched in `forward_seconds`, and waited for
    in `sample_seconds`."""

    steps: int = 0
    forward_seconds: float = 0.0
    sample_seconds: float = 0.0
    schedule_seconds: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    ahead_steps: int = 0  # begun before the tokens of the step before were known
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    row_seconds: float = 0.0  # a moving average: how long a row takes from its request's first step on


class Core:
    """The engine's state. Belongs to the engine's thread; counters may be read from others."""

    def __init__(self, runner: Runner, sampler: Sampler, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.counters = Counters()
        self._runner = runner
        self._sampler = sampler
        self._works: dict[int, Work] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._started: list[Work] = []
        self._failures: list[tuple[int, MeshError]] = []
        self.broken_steps = 0  # in a row

    # Commands

    def add(self, work: Work) -> None:
        """Take in a request; one without rows has nothing to do and is only reported as started."""
        if not work.rows:
            work.first_step = time.monotonic()
            self._started.append(work)
            return
        try:
            for row in work.rows:
                prompt = len(work.prompt)
                row.sampler = self._sampler.add(
                    work.sampling,
                    row.choice,
                    work.prompt,
                    row.tokens[prompt:],
                    logprobs=work.logprobs,
                    matcher=row.matcher,
                )
        except Exception as error:
            self._forget_sampler_rows(work.rows)
            self._failures.append((work.key, failure_of(error, "refusing a request")))
            return
        self._works[work.key] = work
        if work.deadline is not None:
            self._note_deadline(work.deadline, work.key)
        self.scheduler.add(work)

    def _note_deadline(self, deadline: float, key: int) -> None:
        heapq.heappush(self._deadlines, (deadline, key))
        if len(self._deadlines) > 2 * len(self._works) + _SPARE_DEADLINES:
            # Mostly of requests that ended before theirs.
            self._deadlines = [entry for entry in self._deadlines if entry[1] in self._works]
            heapq.heapify(self._deadlines)

    def cancel(self, key: int) -> None:
        """Let a request go, if it is still there."""
        work = self._works.pop(key, None)
        if work is not None:
            # The leader last: its end would let the others wait in line.
            for row in reversed(work.rows):
                self.scheduler.finish(row)
            self._forget_sampler_rows(work.rows)
            work.rows.clear()  # no cycle: what it holds, an adapter maybe, is freed now and not when it is collected

    def end_choice(self, key: int, choice: int) -> None:
        """Let one row of a request go, if it is still there."""
        work = self._works.get(key)
        if work is not None:
            for row in work.rows:
                if row.choice == choice:
                    self._end(row)
                    return

    def grant(self, key: int, tokens: int) -> None:
        """Allow a request more tokens."""
        work = self._works.get(key)
        if work is not None:
            self.scheduler.grant(work, tokens)

    def _end(self, row: Row) -> None:
        work = row.work
        if work.first_step is not None:
            seconds = time.monotonic() - work.first_step
            self.counters.row_seconds += 0.1 * (seconds - self.counters.row_seconds)
        self.scheduler.finish(row)
        self._forget_sampler_rows([row])
        work.rows.remove(row)
        if not work.rows:
            self._works.pop(work.key, None)

    def _forget_sampler_rows(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if row.sampler is not None:
                self._sampler.remove(row.sampler)
                row.sampler = None

    def _fail(self, key: int, error: MeshError) -> None:
        if key in self._works:
            self.cancel(key)
            self._failures.append((key, error))

    # Steps

    @property
    def patience(self) -> float | None:
        """Seconds until something may happen by itself while no row can go on, an hour at most; None is for ever."""
        if not self._deadlines:
            return None
        return min(_MOST_PATIENCE, max(0.0, self._deadlines[0][0] - time.monotonic()))

    @property
    def deadlines(self) -> int:
        """Deadlines that are watched, those of ended requests included that are not forgotten yet."""
        return len(self._deadlines)

    def load(self) -> Load:
        """The load now."""
        return self.scheduler.load(self.counters.steps)

    @property
    def queue_seconds(self) -> float:
        """A guess at how long it takes until the rows that wait now have got a place."""
        rounds = self.scheduler.waiting / self.scheduler.limits.max_rows
        return min(60.0, max(1.0, rounds * self.counters.row_seconds))

    def stats(self) -> dict[str, float]:
        """Counters since start and sizes now, by name."""
        blocks, own, scheduled = self.scheduler.blocks, self.counters, self.scheduler.counters
        return {
            "steps": own.steps,
            "forward_seconds": own.forward_seconds,
            "sample_seconds": own.sample_seconds,
            "schedule_seconds": own.schedule_seconds,
            "prompt_tokens": own.prompt_tokens,
            "output_tokens": own.output_tokens,
            "ahead_steps": own.ahead_steps,
            "drafted_tokens": own.drafted_tokens,
            "accepted_tokens": own.accepted_tokens,
            "prefix_hit_tokens": scheduled.prefix_hit_tokens,
            "preemptions": scheduled.preemptions,
            "kv_pages_copied": scheduled.copied_pages,
            "kv_pages_total": blocks.total,
            "kv_pages_used": blocks.used,
            "kv_pages_cached": blocks.cached,
            "rows_live": self.scheduler.running + self.scheduler.waiting,
        }

    def step(self) -> Report | None:
        """Run one step; None when there was nothing to do. Does not raise."""
        begun = time.perf_counter()
        self._expire()
        batch = self.scheduler.schedule()
        scheduled = time.perf_counter()
        self.counters.schedule_seconds += scheduled - begun
        tokens: list[NewToken] = []
        if batch:
            try:
                tokens = self._run(batch, scheduled)
                self.broken_steps = 0
                self.scheduler.note(batch, time.perf_counter() - begun)
            except Exception as error:
                self._break(batch, error)
        elif not (self._started or self._failures):
            return None
        self.counters.steps += 1
        report = Report(self.counters.steps, time.monotonic(), self.load(), self._started, tokens, self._failures)
        self._started, self._failures = [], []
        return report

    def _expire(self) -> None:
        now = time.monotonic()
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][1] not in self._works):
            _, key = heapq.heappop(self._deadlines)
            self._fail(key, MeshError(ErrorKind.DEADLINE_EXCEEDED, "the request's deadline has passed"))

    def _run(self, batch: Batch, begun: float) -> list[NewToken]:
        """Forward, sample and commit."""
        counters = self.counters
        self._note_starts(batch)
        if stale := self.scheduler.blocks.take_stale():
            self._runner.wipe(stale)
        if copies := self.scheduler.take_copies():
            self._runner.copy(copies)
        try:
            logits = self._runner.forward(batch)
        except Exception as error:
            raise ForwardError(error) from error
        forwarded = time.perf_counter()
        counters.forward_seconds += forwarded - begun
        spoilt = self._score(batch, logits)
        outcomes = sample_step(self._sampler, batch, logits, self._look_ahead(batch))
        done = time.perf_counter()
        counters.sample_seconds += done - forwarded
        for outcome in outcomes:
            outcome.row.tokens += outcome.tokens
        self._advance(batch, outcomes)
        tokens = self._commit(outcomes)
        for row in spoilt:
            self._fail_spoilt(row)
        counters.schedule_seconds += time.perf_counter() - done
        return tokens

    def _look_ahead(self, batch: Batch) -> OnTokens | None:
        """What begins the next step as soon as this one's tokens are known to the device, if that is of use."""
        if self.scheduler.limits.draft_tokens or not self._runner.looks_ahead(batch):
            return None
        going = [
            (place, row)
            for place, row in enumerate(batch.decode)
            if len(row.tokens) + 1 < row.most and self.scheduler.has_room_after(row)
        ]
        # Pages that were taken just now are used before the next step wipes what it takes.
        if stale := self.scheduler.blocks.take_stale():
            self._runner.wipe(stale)
        return partial(self._launch, going) if going else None

    def _launch(self, rows: Sequence[tuple[int, Row]], token_ids: torch.Tensor) -> None:
        try:
            self._runner.launch(rows, token_ids)
        except Exception as error:  # it breaks again, with whoever is to blame, when the step's turn has come
            log.warning("a step could not be begun early: %s", error)
            return
        self.counters.ahead_steps += 1

    def _note_starts(self, batch: Batch) -> None:
        for chunk in batch.prefill:
            self._note_start(chunk.row.work)
        for row in batch.decode:
            self._note_start(row.work)

    def _note_start(self, work: Work) -> None:
        if work.first_step is None:
            work.first_step = time.monotonic()
            if not work.unscored:
                self._started.append(work)

    def _score(self, batch: Batch, logits: torch.Tensor) -> list[Row]:
        """Note log probabilities of prompts; a request has started when it has all. Rows with NaN among them."""
        spoilt: list[Row] = []
        place = len(batch.decode)
        for chunk in batch.prefill:
            row, work = chunk.row, chunk.row.work
            place += chunk.kept
            if work.scores is None or not row.scores_prompt or not chunk.kept:
                continue
            first = row.computed + chunk.count - chunk.kept
            following = work.prompt[first + 1 : first + 1 + chunk.kept]
            part = logits[place - chunk.kept :][: len(following)]
            scores = self._sampler.score(part, following, work.prompt_logprobs)
            work.scores += scores
            if any(math.isnan(logprob) for logprob, _ in scores):
                spoilt.append(row)
            elif not work.unscored:
                self._started.append(work)
        return spoilt

    def _advance(self, batch: Batch, outcomes: Sequence[Outcome]) -> None:
        """Note what was computed, and let others find the pages that are full."""
        for row in batch.decode:
            row.computed += 1
        for chunk in batch.prefill:
            if not chunk.draft:
                self.counters.prompt_tokens += chunk.count
                chunk.row.computed += chunk.count
            chunk.row.unverified = True
        for outcome in outcomes:
            if outcome.draft:
                self._learn(outcome)
        size = self.scheduler.blocks.page_size
        for row in batch.rows:
            work = row.work
            if work.root is not None and row.computed >= (row.registered + 1) * size:
                self._register(row, size)
            if work.leader is row and row.computed >= len(work.prompt):
                self.scheduler.share_prompt(row)

    def _register(self, row: Row, size: int) -> None:
        row.update_digests(size, row.computed)
        full = row.computed // size
        for page in range(row.registered, full):
            self.scheduler.blocks.register(row.pages[page], row.digests[page])
        row.registered = full

    def _learn(self, outcome: Outcome) -> None:
        """Note how much of a row's guess was right."""
        row, guessed = outcome.row, len(outcome.draft)
        right = max(0, len(outcome.tokens) - 1)
        row.computed += 1 + right
        self.counters.drafted_tokens += guessed
        self.counters.accepted_tokens += right
        if guessed > right:
            self.scheduler.grant(row.work, guessed - right)
        if row.drafter is not None:
            row.drafter.learn(right, len(row.tokens))

    def _commit(self, outcomes: Sequence[Outcome]) -> list[NewToken]:
        tokens: list[NewToken] = []
        for outcome in outcomes:
            row, work = outcome.row, outcome.row.work
            row.unverified = outcome.spoilt
            for token, logprob in zip(outcome.tokens, outcome.logprobs, strict=True):
                tokens.append(NewToken(work.key, row.choice, token, logprob, ended=False))
            if outcome.tokens and row.ends_with(outcome.tokens[-1], len(row.tokens)):
                tokens[-1].ended = True
                self._end(row)
        self.counters.output_tokens += len(tokens)
        for outcome in outcomes:
            if outcome.spoilt:
                self._fail_spoilt(outcome.row)
            elif outcome.error is not None:
                self._fail(outcome.row.work.key, outcome.error)
        return tokens

    def _fail_spoilt(self, row: Row) -> None:
        self.scheduler.blocks.distrust(row.pages, forget=True)
        self._fail(row.work.key, MeshError(ErrorKind.ENGINE_FAILED, "the model's output is not a number"))

    def _break(self, batch: Batch, error: Exception) -> None:
        """A step broke: who breaks alone fails, everybody else is computed again on an empty cache.

        A step whose rows all work alone (it was too large, say) spares each of its requests once. One that ran out of
        memory takes the newest request with it.
        """
        if isinstance(error, ForwardError) and is_out_of_memory(error.cause):
            self._shed(batch, error.cause)
            return
        self.broken_steps += 1
        what = f"a step of {len(batch.rows)} rows and {batch.tokens} tokens broke"
        rows, works = batch.rows, {row.work.key: row.work for row in batch.rows}
        # What broke after the forward may have counted a token already: those rows cannot be computed once more.
        retry = isinstance(error, ForwardError) and len(works) > 1
        cause = error.cause if isinstance(error, ForwardError) else error
        if retry:
            give_credit_back(batch)
        self.scheduler.restart()
        self._runner.reset()
        failures: Mapping[int, Exception] = dict.fromkeys(works, cause)
        if retry:
            failures, worked = try_alone(rows, self.scheduler, self._runner)
            self.broken_steps = 0 if worked else self.broken_steps
        if not failures:
            failures = {key: cause for key, work in works.items() if work.spared}
            for work in works.values():
                work.spared = True
        log.error("%s: %d of %d requests fail", what, len(failures), len(works), exc_info=cause)
        for key, failure in failures.items():
            self._fail(key, failure_of(failure, "a request broke a step"))

    def _shed(self, batch: Batch, error: Exception) -> None:
        """There was not enough memory for a step: the request that came last goes, the others are computed again."""
        works = {row.work.key: row.work for row in batch.rows}
        newest = max(works.values(), key=lambda work: (work.priority, work.order))
        if len(works) == 1:
            self.broken_steps += 1  # it is not for the others' sake
        log.error(
            "out of memory in a step of %d rows and %d tokens: request %d is refused",
            *(len(batch.rows), batch.tokens, newest.key),
            exc_info=error,
        )
        give_credit_back(batch)
        self.scheduler.recompute(batch.rows)
        text = "the worker ran out of memory while it computed this request beside others"
        self._fail(newest.key, MeshError(ErrorKind.OVERLOADED, text, retry_after=self.queue_seconds))
