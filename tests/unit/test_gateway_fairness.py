"""Who is next: tenants by the tokens that they were served, priorities with a turn for each, places that are kept."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest

from gateway.routing.fairness import Account, Bill, Ledger
from gateway.routing.line import Line


@dataclass(eq=False)
class Waiting:
    """One that waits."""

    number: int
    bill: Bill
    priority: int = 0
    urgent: bool = False

    @property
    def account(self) -> Account:
        return self.bill.account


class Bench:
    """A line with its ledger, in which one is served at a time."""

    def __init__(self, patience: float = 1000.0) -> None:
        self.ledger = Ledger()
        self.line: Line[Waiting] = Line(patience)
        self.now = 0.0
        self._number = 0

    def arrive(self, tenant: str, *, weight: float = 1.0, priority: int = 0, urgent: bool = False) -> Waiting:
        self._number += 1
        bill = self.ledger.open(tenant, weight, self.line.accounts())
        waiting = Waiting(self._number, bill, priority, urgent)
        self.line.add(waiting, self.now)
        return waiting

    def take(self) -> Waiting:
        """The next one."""
        waiting = next(self.line.order(self.now))
        self.line.served(waiting, self.now)
        waiting.bill.begin()
        return waiting

    def serve(self, cost: float) -> str:
        """Serve the next one whole; its tenant."""
        waiting = self.take()
        waiting.bill.use(cost)
        waiting.bill.close()
        return waiting.account.tenant

    def counters(self) -> dict[str, float]:
        return {account.tenant: account.counter for account in self.line.accounts()}


def jain(shares: list[float]) -> float:
    """1 for equal shares, 1 / n if one has all."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def test_ten_times_the_requests_get_no_more_tokens() -> None:
    bench = Bench()
    served = {"greedy": 0.0, "modest": 0.0}
    for _ in range(200):
        for _ in range(10):
            bench.arrive("greedy")
        bench.arrive("modest")
        bench.now += 1
        served[bench.serve(10)] += 10
    assert jain(list(served.values())) > 0.99


def test_tokens_count_and_not_requests() -> None:
    bench = Bench()
    for _ in range(100):
        bench.arrive("long")
        bench.arrive("short")
    turns = [bench.take() for _ in range(2)]
    served = {"long": 0, "short": 0}
    for _ in range(110):
        for one in turns:
            one.bill.use(90 if one.account.tenant == "long" else 10)
            one.bill.close()
            served[one.account.tenant] += 1
        turns = [bench.take()]
    assert 8 <= served["short"] / served["long"] <= 10


def test_a_tenant_of_twice_the_weight_gets_twice_the_tokens() -> None:
    bench = Bench()
    for _ in range(300):
        bench.arrive("heavy", weight=2.0)
        bench.arrive("light")
    served = [bench.serve(10) for _ in range(300)]
    assert served.count("heavy") == pytest.approx(200, abs=2)


def test_who_was_away_has_saved_nothing_up() -> None:
    bench = Bench()
    for _ in range(50):
        bench.arrive("busy")
    for _ in range(40):
        bench.serve(10)
    for _ in range(10):
        bench.arrive("returns")
    order = [bench.serve(10) for _ in range(8)]
    assert order.count("busy") == 4


def test_who_was_served_while_nobody_waited_is_not_behind_for_it() -> None:
    bench = Bench()
    for _ in range(40):
        bench.arrive("early")
        bench.serve(10)
    for _ in range(10):
        bench.arrive("late")
        bench.arrive("early")
    order = [bench.serve(10) for _ in range(8)]
    assert order.count("early") == 4


def test_many_places_at_once_are_shared_before_any_token_is_known() -> None:
    bench = Bench()
    for _ in range(20):
        bench.arrive("a")
    for _ in range(20):
        bench.arrive("b")
    at_once = [bench.take().account.tenant for _ in range(16)]
    assert at_once.count("a") == at_once.count("b") == 8


def test_a_refused_request_keeps_its_place_and_costs_nothing() -> None:
    bench = Bench()
    first, _ = bench.arrive("a"), bench.arrive("a")
    before = bench.counters()
    assert bench.take() is first
    first.bill.refund()
    bench.line.add(first, bench.now)
    assert bench.counters() == before
    assert bench.take() is first


def test_what_was_charged_ahead_is_settled_at_the_end() -> None:
    bench = Bench()
    for cost in (100, 3, 250, 0):
        waiting = bench.arrive("a")
        before = waiting.account.counter
        bench.take()
        waiting.bill.use(cost)
        waiting.bill.close()
        assert waiting.account.counter == pytest.approx(before + cost)
        assert waiting.account.open == 0


def test_priorities_go_first_and_the_patient_get_a_turn() -> None:
    bench = Bench(patience=5.0)
    for _ in range(100):
        bench.arrive("a", priority=-1)
    for _ in range(100):
        bench.arrive("b", priority=1)
    turns: list[int] = []
    for _ in range(20):
        bench.now += 1.0
        turns.append(bench.take().priority)
    assert turns[:4] == [-1] * 4
    assert turns.count(1) == 4  # every fifth second
    assert all(pair != (1, 1) for pair in itertools.pairwise(turns))


def test_a_flood_of_classes_leaves_the_first_one_every_other_turn() -> None:
    bench = Bench(patience=5.0)
    for priority in range(-1, 50):
        for _ in range(40):
            bench.arrive("a", priority=priority)
    bench.now = 100.0
    turns = [bench.take().priority for _ in range(40)]
    assert turns.count(-1) == 20
    assert len(set(turns)) == 21


def test_answers_that_have_begun_go_before_all() -> None:
    bench = Bench()
    bench.arrive("a", priority=-100)
    begun = bench.arrive("b", urgent=True)
    assert list(bench.line.order(0.0, urgent_only=True)) == [begun]
    assert bench.take() is begun


def test_how_many_are_ahead() -> None:
    bench = Bench()
    bench.arrive("a", urgent=True)
    bench.arrive("a", priority=-1)
    for _ in range(10):
        bench.arrive("greedy")
    modest = [bench.arrive("modest") for _ in range(2)]
    bench.arrive("c", priority=3)
    # An urgent one, an earlier priority, and of the other tenant as many as it has itself.
    assert [bench.line.ahead(one) for one in modest] == [3, 5]
    assert bench.line.ahead(bench.arrive("greedy")) == 2 + 10 + 2


def test_nothing_is_left_of_a_line() -> None:
    bench = Bench()
    there = [bench.arrive(tenant, priority=priority) for tenant in "ab" for priority in (0, 1)]
    for waiting in there:
        bench.line.remove(waiting)
    assert len(bench.line) == 0
    assert list(bench.line.order(0.0)) == []
    assert list(bench.line.accounts()) == []
