"""When a standstill means frozen."""

from __future__ import annotations

import pytest

from gateway.routing.pace import Pace, StallLimits
from mesh.v1 import inference_pb2 as pb

LIMITS = StallLimits(factor=20, floor=0.5, ceiling=30)


def load(steps: int, running: int = 1) -> pb.WorkerLoad:
    return pb.WorkerLoad(steps=steps, running=running)


def test_an_unknown_pace_gets_the_ceiling() -> None:
    assert Pace(0, LIMITS).limit == 30


def test_the_limit_follows_the_worker() -> None:
    pace = Pace(0, LIMITS)
    for step in range(200):
        pace.observe(load(step), step * 0.1)
    assert pace.limit == pytest.approx(2.0)
    for step in range(200, 400):
        pace.observe(load(step), 20 + (step - 200) * 0.5)
    assert pace.limit == pytest.approx(10.0, rel=0.01)


def test_the_limit_has_a_floor_and_a_ceiling() -> None:
    fast, slow = Pace(0, LIMITS), Pace(0, LIMITS)
    for step in range(10):
        fast.observe(load(step), step * 0.001)
        slow.observe(load(step), step * 60.0)
    assert (fast.limit, slow.limit) == (0.5, 30)


def test_idle_time_says_nothing_about_the_pace() -> None:
    pace = Pace(0, LIMITS)
    for step in range(50):
        pace.observe(load(step), step * 0.1)
    pace.observe(load(50, running=0), 5.0)
    pace.observe(load(51), 1000.0)
    assert pace.limit == pytest.approx(2.0)


def test_steps_for_other_gateways_are_counted() -> None:
    pace = Pace(0, LIMITS)
    for index in range(100):
        pace.observe(load(index * 10), index * 1.0)
    assert pace.limit == pytest.approx(2.0)


def test_a_long_prompt_does_not_look_like_a_standstill() -> None:
    pace = Pace(0, LIMITS)
    for step in range(50):
        pace.observe(load(step), step * 0.01)
    assert pace.limit == 0.5
    prompt = load(49)
    prompt.pending_tokens = 8000
    pace.observe(prompt, 0.5)
    assert pace.limit == 30  # nothing is known of its prefill
    prompt.steps = 50
    pace.observe(prompt, 0.79)
    assert pace.limit == pytest.approx(6.0)
    pace.observe(load(51), 1.09)
    assert pace.limit == 0.5


def test_a_worker_has_thawed_when_it_steps_or_has_nothing_to_do() -> None:
    pace = Pace(0, LIMITS)
    pace.observe(load(1), 1)
    assert pace.thawed
    pace.observe(load(1), 2)
    assert not pace.thawed
    pace.observe(load(1, running=0), 3)
    assert pace.thawed


def test_the_first_step_after_an_idle_time_is_as_long_as_it_was() -> None:
    pace = Pace(0, LIMITS)
    for step in range(50):
        pace.observe(load(step), step * 0.1)
    pace.observe(load(50, running=0), 5.0)
    pace.observe(load(50), 1000.0)  # a heartbeat while the first step of new work is under way
    pace.observe(load(51), 1000.1)
    assert pace.limit == pytest.approx(2.0)


def test_when_silence_about_a_row_is_excused() -> None:
    pace = Pace(0, LIMITS)
    pace.observe(load(1), 1)
    assert (pace.idle, pace.worked_at, pace.crowded_at) == (False, 1, 0)
    pace.observe(pb.WorkerLoad(steps=2, running=1, waiting=1), 2)
    pace.observe(pb.WorkerLoad(steps=3, running=1, pending_tokens=5), 3)
    assert pace.crowded_at == 3
    pace.observe(load(4), 4)
    assert pace.crowded_at == 3
    pace.observe(load(4, running=0), 5)
    assert (pace.idle, pace.worked_at) == (True, 4)
