"""Which worker takes a request: one policy at a time, with seeded draws, and the properties that each one promises."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from gateway.routing import balance
from gateway.routing.balance import least_loaded, prefer_zone, prefix_aware, random_choice, round_robin
from gateway.routing.pace import StallLimits
from gateway.routing.prefix import Prefix, PrefixTable
from gateway.routing.session import Session
from mesh.dial import dialler
from mesh.v1 import inference_pb2 as pb
from mesh.v1.registry_pb2 import WorkerRecord


def session(
    worker_id: str,
    *,
    running: int = 0,
    waiting: int = 0,
    tokens: int = 0,
    slots: int = 8,
    zone: str = "",
    weight: float = 0,
    incarnation: str = "i",
) -> Session:
    record = WorkerRecord(
        worker_id=worker_id, incarnation=incarnation, address="127.0.0.1:1", slots=slots, zone=zone, weight=weight
    )
    made = Session(
        record,
        client="test",
        dial=dialler(None),
        limits=StallLimits(),
        on_change=lambda: None,
        on_message=lambda: None,
        on_load=lambda _: None,
    )
    made.report(pb.WorkerLoad(running=running, waiting=waiting, slots=slots, running_tokens=tokens))
    return made


def add(made: Session, *, running: int = 0, running_tokens: int = 0, pending_tokens: int = 0) -> None:
    """Let a worker report so much more."""
    load = made.load
    load.running += running
    load.running_tokens += running_tokens
    load.pending_tokens += pending_tokens
    made.report(load)


def fleet(count: int, **options: int) -> list[Session]:
    return [session(f"w{index}", **options) for index in range(count)]  # pyright: ignore[reportArgumentType]


def prompt(number: int) -> Prefix:
    return Prefix(pb.GenerateRequest(model="m", text=f"prompt {number}"))


def place(prefix: Prefix, sessions: list[Session], factor: float = 1.25) -> str:
    return prefix_aware(sessions, prefix, PrefixTable(0), factor)[0].worker_id


# Loads


def test_the_less_loaded_of_two_is_taken() -> None:
    busy, idle = session("busy", running=5), session("idle", running=4)
    assert {least_loaded([busy, idle]).worker_id for _ in range(50)} == {"idle"}


def test_tokens_in_flight_and_queued_count() -> None:
    long, short = session("long", running=2, tokens=9000), session("short", running=2, tokens=100)
    assert {least_loaded([long, short]).worker_id for _ in range(50)} == {"short"}
    add(short, pending_tokens=20_000)
    assert {least_loaded([long, short]).worker_id for _ in range(50)} == {"long"}


def test_a_worker_with_a_free_slot_goes_before_one_that_would_let_wait() -> None:
    full, roomy = session("full", running=2, slots=2), session("roomy", running=40, tokens=100_000, slots=64)
    assert balance.load(full) < balance.load(roomy)
    assert {least_loaded([full, roomy]).worker_id for _ in range(50)} == {"roomy"}


def test_load_is_relative_to_size_and_weight() -> None:
    small, large = session("small", running=2, slots=4), session("large", running=8, slots=64)
    assert {least_loaded([small, large]).worker_id for _ in range(50)} == {"large"}
    light, heavy = session("light", running=3), session("heavy", running=4, weight=2)
    assert {least_loaded([light, heavy]).worker_id for _ in range(50)} == {"heavy"}


def test_what_the_worker_has_not_reported_counts() -> None:
    first, second = session("first"), session("second", running=1)
    first.unconfirmed = 2
    assert {least_loaded([first, second]).worker_id for _ in range(50)} == {"second"}
    second.unconfirmed_tokens = 5000
    assert {least_loaded([first, second]).worker_id for _ in range(50)} == {"first"}


def test_the_most_loaded_of_many_is_never_taken_and_the_others_share() -> None:
    random.seed(1)
    sessions = [session(f"w{index}", running=index) for index in range(5)]
    counts = Counter(least_loaded(sessions).worker_id for _ in range(5000))
    assert counts["w4"] == 0
    assert counts["w0"] > counts["w1"] > counts["w2"] > counts["w3"] > 0


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_a_weight_that_is_none_counts_as_one(weight: float) -> None:
    assert session("w", weight=weight).weight == 1


# Zones


def test_the_own_zone_goes_first_while_it_has_room() -> None:
    near, far = session("near", running=7, zone="z"), session("far", zone="y")
    assert list(prefer_zone([near, far], "z")) == [near]
    add(near, running=1)
    assert list(prefer_zone([near, far], "z")) == [near, far]
    assert list(prefer_zone([near, far], "")) == [near, far]


# Weights


def chi_square(counts: Counter[str], shares: dict[str, float]) -> float:
    total, whole = counts.total(), sum(shares.values())
    return sum((counts[name] - total * share / whole) ** 2 / (total * share / whole) for name, share in shares.items())


# Three degrees of freedom: one run in ten thousand is above it by chance, and the seed is fixed.
CHI_SQUARE_LIMIT = 21.1
WEIGHTS = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 0.5}


def test_random_keeps_to_the_weights() -> None:
    random.seed(2)
    sessions = [session(name, weight=weight) for name, weight in WEIGHTS.items()]
    counts = Counter(random_choice(sessions).worker_id for _ in range(20_000))
    assert chi_square(counts, WEIGHTS) < CHI_SQUARE_LIMIT


def test_hashes_keep_to_the_weights() -> None:
    sessions = [session(name, weight=weight) for name, weight in WEIGHTS.items()]
    counts = Counter(place(prompt(number), sessions) for number in range(20_000))
    assert chi_square(counts, WEIGHTS) < CHI_SQUARE_LIMIT


def test_idle_workers_are_drawn_as_often_as_they_can_take_more() -> None:
    """Of four, the heaviest could otherwise get a half at most."""
    random.seed(3)
    sessions = [*fleet(3), session("heavy", weight=12)]
    sent: Counter[str] = Counter()
    for _ in range(3000):
        chosen = least_loaded(sessions)
        add(chosen, running_tokens=1)
        sent[chosen.worker_id] += 1
    assert sent["heavy"] > 2000


# Round robin


def test_round_robin_is_fair_in_every_round() -> None:
    sessions, turns = fleet(7), balance.Turns()
    for _ in range(20):
        assert len({round_robin(sessions, turns).worker_id for _ in range(7)}) == 7


def test_round_robin_keeps_to_the_weights_exactly() -> None:
    sessions = [session("a"), session("b", weight=2), session("c", weight=5)]
    turns = balance.Turns()
    assert Counter(round_robin(sessions, turns).worker_id for _ in range(800)) == {"a": 100, "b": 200, "c": 500}


def test_who_comes_or_comes_back_in_a_round_makes_up_for_nothing() -> None:
    sessions, turns = fleet(4), balance.Turns()
    for _ in range(10):
        round_robin(sessions[:2], turns)
    for _ in range(300):
        round_robin(sessions[:1], turns)
    turns.forget()
    counts = Counter(round_robin(sessions, turns).worker_id for _ in range(40))
    assert all(9 <= count <= 11 for count in counts.values()), counts


# Prefixes


def test_gateways_agree_without_talking() -> None:
    here, there = fleet(9), fleet(9)
    random.Random(4).shuffle(there)
    assert all(place(prompt(number), here) == place(prompt(number), there) for number in range(500))


def test_a_worker_that_leaves_or_joins_moves_its_own_share_and_no_more() -> None:
    sessions, prompts = fleet(10), [prompt(number) for number in range(5000)]
    before = [place(each, sessions) for each in prompts]
    without = [place(each, sessions[:-1]) for each in prompts]
    moved = [old for old, new in zip(before, without, strict=True) if old != new]
    assert set(moved) == {"w9"}  # no prompt of another worker moved
    assert len(moved) == before.count("w9")
    assert 400 < len(moved) < 600


@pytest.mark.parametrize("seed", range(40))
def test_the_bound_of_load_is_never_exceeded(seed: int) -> None:
    """Whatever the loads, sizes and weights: the chosen one is within the bound, or nearly idle; full only if all are
    that are within it."""
    draw = random.Random(seed)
    sessions = [
        session(
            f"w{index}",
            running=draw.choice((0, draw.randrange(5), draw.randrange(40))),
            tokens=draw.choice((0, draw.randrange(50_000))),
            slots=draw.choice((2, 8, 64)),
            weight=draw.choice((0.5, 1, 3)),
        )
        for index in range(draw.randrange(1, 30))
    ]
    factor = draw.choice((1.0, 1.25, 2.0))
    total = sum(each.capacity for each in sessions)
    mean = sum(balance.load(each) * each.capacity for each in sessions) / total
    limit = max(factor * mean, balance.IDLE_LOAD) * (1 + 1e-9)
    table = PrefixTable(1000)
    for number in range(200):
        table.note(prompt(number), draw.choice(sessions).process)
        chosen, _ = prefix_aware(sessions, prompt(number), table, factor)
        assert balance.load(chosen) <= limit
        if balance.is_full(chosen):
            assert all(balance.is_full(each) for each in sessions if balance.load(each) <= limit)


def test_one_hot_prompt_spreads_over_as_many_workers_as_it_takes() -> None:
    sessions, table = fleet(6, slots=64), PrefixTable(1000)
    hot = prompt(0)
    for _ in range(240):
        chosen, _ = prefix_aware(sessions, hot, table, 1.25)
        add(chosen, running=1)
        table.note(hot, chosen.process)
    rows = sorted(each.load.running for each in sessions)
    assert rows[-1] <= 1.25 * 40 + 1
    assert sum(count > 0 for count in rows) >= 5  # of at most 50 rows each


def test_who_has_seen_the_prompt_goes_before_the_hash() -> None:
    sessions, table = fleet(8), PrefixTable(1000)
    asked = prompt(1)
    other = next(each for each in sessions if each.worker_id != place(asked, sessions))
    table.note(asked, other.process)
    assert prefix_aware(sessions, asked, table, 1.25)[0] is other
    add(other, running=6)
    assert prefix_aware(sessions, asked, table, 1.25) == (
        next(each for each in sessions if each.worker_id == place(asked, sessions)),
        True,
    )


def test_a_restarted_worker_has_seen_nothing() -> None:
    table, asked = PrefixTable(1000), prompt(1)
    before, after = session("w"), session("w", incarnation="later")
    table.note(asked, before.process)
    assert table.cached_share(asked, before.process) == 1
    assert table.cached_share(asked, after.process) == 0
