"""The load of `mesh ctl throughput`, on an engine in this process: how many at a time, what counts, how it stops."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from typing import Any

from mesh.cli.answering.endpoint import Answer, Piece
from mesh.cli.answering.local import local_endpoint
from mesh.cli.throughput.load import Load, prompts
from mesh.cli.throughput.report import spread, summary
from mesh.engine.scripted import ScriptedEngine, ScriptedOptions
from tests.harness import wait_until


@contextlib.contextmanager
def load(engine: ScriptedEngine, count: int) -> Generator[Load]:
    bodies = [{"model": "m", "messages": [{"role": "user", "content": text}]} for text in prompts(count, 3, 0)]
    with contextlib.closing(local_endpoint(engine)) as endpoint:
        yield Load(endpoint, bodies, seed=0)


def engine(**options: Any) -> ScriptedEngine:
    return ScriptedEngine(ScriptedOptions(name="m", **options))


def test_so_many_are_under_way_until_all_are_answered() -> None:
    with load(engine(tokens=5, step_interval=0.005), 20) as running:
        running.start_closed(3)
        most = 0
        while not running.wait(0.001):
            most = max(most, len(running.running))
        assert most == 3
        found = summary(running)
    assert (found["answered"], found["failed"], found["errors"]) == (20, 0, {})
    assert found["output_tokens"] == 20 * 6  # with the tokens that end the answers
    assert found["prompt_tokens"] > 0


def test_a_rate_begins_requests_whether_or_not_others_are_answered() -> None:
    with load(engine(tokens=5, stall_after=2), 4) as running:
        running.start_open(1000)
        wait_until(lambda: len(running.running) == 4)
        assert running.answers == []
        running.stop()
        assert not running.answers


def test_a_stop_breaks_answers_off_in_the_engine() -> None:
    slow = engine(tokens=100_000, step_interval=0.002, context_length=200_000)
    with load(slow, 50) as running:
        running.start_closed(4)
        wait_until(lambda: slow.load().running == 4 and running.tokens > 4)
        running.stop()
        assert running.running == set()
        wait_until(lambda: slow.load().running == 0)
        assert (running.answers, running.errors) == ([], [])


def test_what_fails_is_counted_by_its_error() -> None:
    with load(engine(fail_after=1), 3) as running:
        running.start_closed(1)
        assert running.wait(10)
        found = summary(running)
    assert (found["answered"], found["failed"], list(found["errors"].values())) == (0, 3, [3])
    assert (found["first_token"], found["end_to_end"]) == (None, None)


def test_percentiles_are_values_that_were_there() -> None:
    assert spread([4, 1, 3, 2]) == {"mean": 2.5, "p50": 2, "p90": 4, "p99": 4, "max": 4}
    assert spread(range(1, 101)) == {"mean": 50.5, "p50": 50, "p90": 90, "p99": 99, "max": 100}
    assert spread([]) is None


def test_prompts_differ_and_come_again() -> None:
    assert prompts(3, 4, seed=1) == prompts(3, 4, seed=1)
    assert len(set(prompts(50, 4, seed=1))) == 50
    assert [len(text.split()) for text in prompts(2, 7, seed=1)] == [7, 7]
    assert prompts(1, 4, seed=1) != prompts(1, 4, seed=2)


def test_an_answer_is_timed_from_when_it_was_due() -> None:
    answer = Answer(began=time.monotonic() - 10)
    answer.take(Piece("late"))
    assert answer.first_token is not None
    assert answer.first_token >= 10
