"""A prompt that enters leaves the rows that decode their pace."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mesh.engine.base import Sampling
from mesh.engine.transformers.scheduling.blocks import BlockManager
from mesh.engine.transformers.scheduling.pace import FIRST_PIECE, LEAST_PIECE
from mesh.engine.transformers.scheduling.scheduler import Limits, Scheduler
from mesh.engine.transformers.scheduling.sequence import Batch, Row, Work

STEP_TOKENS = 512
# Seconds of a step, from the prompt tokens that it computes and those that the prompt's row has before them.
Cost = Callable[[int, int], float]


def steady(tokens: int, before: int) -> float:
    return 0.05 + 0.001 * tokens


def growing(tokens: int, before: int) -> float:
    return 0.05 + tokens * (0.001 + 2e-7 * before)


def slow(tokens: int, before: int) -> float:
    return 1 + tokens / 128


class Bench:
    """A scheduler with one row that decodes, whose steps last what they cost."""

    def __init__(self, cost: Cost, *, step_seconds: float | None = 0.25, chunks: bool = True) -> None:
        limits = Limits(4, STEP_TOKENS, chunks, step_seconds=step_seconds)
        self.scheduler = Scheduler(limits, BlockManager(4000, 16))
        self._cost = cost
        self._works = 0

    def add(self, length: int) -> Row:
        work = Work(self._works, self._works, Sampling(seed=0), list(range(length)))
        work.rows = [Row(work, 0, work.prompt[:], 100_000, 0, frozenset())]
        self._works += 1
        self.scheduler.add(work)
        return work.rows[0]

    def step(self, *, slower: float = 0.0) -> Batch:
        batch = self.scheduler.schedule()
        before = batch.prefill[0].row.computed if batch.prefill else 0
        sampled = batch.sampled
        for row in batch.decode:
            row.computed += 1
        for chunk in batch.prefill:
            chunk.row.computed += chunk.count
        for row in sampled:
            row.tokens.append(7)
        self.scheduler.note(batch, self._cost(batch.tokens - len(batch.decode), before) + slower)
        return batch

    def read(self, length: int) -> list[int]:
        """The pieces in which a prompt is read."""
        row, pieces = self.add(length), list[int]()
        while len(row.tokens) == length:
            pieces.append(self.step().prefill[0].count)
        return pieces


def beside_an_answer(cost: Cost, *, step_seconds: float | None = 0.25) -> Bench:
    bench = Bench(cost, step_seconds=step_seconds)
    bench.add(1)
    for _ in range(8):
        bench.step()
    return bench


def test_steps_last_as_long_as_they_may_from_the_second_piece_on() -> None:
    pieces = beside_an_answer(steady).read(2000)
    assert pieces[0] == FIRST_PIECE == 64
    assert set(pieces[1:-1]) == {200}
    assert sum(pieces) == 2000


def test_what_was_learnt_holds_for_the_next_prompt() -> None:
    bench = beside_an_answer(steady)
    bench.read(600)
    assert bench.read(600) == [200, 200, 200]


def test_pieces_shrink_as_a_long_context_makes_tokens_dearer() -> None:
    bench = beside_an_answer(growing)
    pieces = bench.read(16_000)
    before = 0
    for count in pieces[:-1]:
        assert growing(count, before) < 0.3
        before += count
    assert pieces[-2] < 50 < 150 < pieces[1]


def test_rows_that_decode_lose_no_more_than_half_of_their_speed() -> None:
    assert set(beside_an_answer(slow).read(2000)[1:-1]) == {128}


@pytest.mark.parametrize("dear", [0.02, 1.0])
def test_a_piece_is_never_tiny(dear: float) -> None:
    bench = beside_an_answer(lambda tokens, before: 0.2 + dear * tokens)
    assert set(bench.read(2000)[1:-1]) == {LEAST_PIECE}


def test_one_slow_step_changes_nothing() -> None:
    bench = beside_an_answer(steady)
    bench.read(600)
    row = bench.add(1200)
    bench.step(slower=10.0)
    assert bench.step().prefill[0].count == 200
    assert row.computed == 400


def test_alone_a_prompt_has_the_whole_step() -> None:
    bench = Bench(slow)
    assert set(bench.read(2048)[:-1]) == {STEP_TOKENS}


def test_a_prompt_that_was_alone_has_told_what_its_tokens_cost() -> None:
    bench = Bench(steady)
    bench.read(STEP_TOKENS)
    assert bench.read(2000)[0] == int(0.25 / steady(STEP_TOKENS, 0) * STEP_TOKENS)


def test_a_prompt_too_short_to_learn_from_leaves_the_next_one_small() -> None:
    bench = beside_an_answer(steady)
    assert bench.read(LEAST_PIECE - 1) == [LEAST_PIECE - 1]
    assert bench.read(600) == [FIRST_PIECE, 200, 200, 136]


def test_without_a_limit_the_whole_step_is_used() -> None:
    assert set(beside_an_answer(slow, step_seconds=None).read(2000)[:-1]) == {STEP_TOKENS - 1}


def test_prompts_that_cannot_be_cut_are_read_whole() -> None:
    bench = Bench(slow, chunks=False)
    bench.add(1)
    bench.step()
    assert bench.read(300) == [300]
    assert bench.read(300) == [300]
