"""The limiter on a virtual clock: what any sequence of requests can and cannot get out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.account import Account
from gateway.access.limits import Bucket, duration
from mesh.errors import ErrorKind, MeshError
from mesh.keys import Key, Usage, new_key

# Pauses in seconds between attempts.
PAUSES = st.lists(st.floats(0, 40), max_size=60)
LIMITS = st.integers(1, 50)


@dataclass(eq=False)
class Request:
    """A request under way that has used so many tokens."""

    spent: int = 0


def account(**limits: Any) -> Account:
    return Account(new_key("test", **limits)[0], 0.0)


def refusal(one: Account, now: float) -> MeshError:
    with pytest.raises(MeshError) as caught:
        one.admit(Request(), now)
    return caught.value


@given(LIMITS, PAUSES)
def test_over_any_time_no_more_than_the_limit_and_one_minute_saved_up(limit: int, pauses: list[float]) -> None:
    one, now = account(requests_per_minute=limit), 0.0
    taken: list[float] = []
    for pause in pauses:
        now += pause
        try:
            one.admit(Request(), now)
        except MeshError:
            continue
        taken.append(now)
    for first, began in enumerate(taken):
        for last, ended in enumerate(taken[first:], first):
            assert last - first + 1 <= limit * (1 + (ended - began) / 60) + 1e-6


@given(LIMITS, PAUSES)
def test_whoever_waits_as_long_as_told_is_let_in_and_not_before(limit: int, pauses: list[float]) -> None:
    one, now = account(requests_per_minute=limit), 0.0
    for pause in pauses:
        now += pause / 10
        if one.headers(now)["x-ratelimit-remaining-requests"] == "0":
            error = refusal(one, now)
            assert error.kind is ErrorKind.RATE_LIMIT_EXCEEDED
            assert error.retry_after is not None
            assert error.retry_after > 0
            refusal(one, now + error.retry_after - 1e-3)
            now += error.retry_after + 1e-6
        one.admit(Request(), now)


@given(LIMITS, st.lists(st.tuples(st.floats(0, 30), st.integers(0, 200)), max_size=40))
def test_in_the_long_run_tokens_keep_to_the_limit_whatever_an_answer_takes(
    limit: int, requests: list[tuple[float, int]]
) -> None:
    one, now, most, total = account(tokens_per_minute=limit), 0.0, 0, 0
    for pause, tokens in requests:
        now += pause
        request = Request()
        try:
            one.admit(request, now)
        except MeshError:
            continue
        request.spent = tokens
        one.release(request, now)
        total += tokens
        most = max(most, tokens)
        # One answer may overrun what is left; the next one waits until that is paid.
        assert total <= limit * (1 + now / 60) + most + 1e-6
    assert one.used.tokens == total


@given(st.lists(st.integers(0, 2), max_size=60), st.integers(1, 5))
def test_concurrency_is_never_above_its_limit_and_comes_back(steps: list[int], limit: int) -> None:
    one = account(concurrency=limit)
    live: list[Request] = []
    for step in steps:
        if step and live:
            one.release(live.pop(), 0.0)
            continue
        request = Request()
        if len(live) < limit:
            one.admit(request, 0.0)
            live.append(request)
        else:
            assert "under way" in refusal(one, 0.0).message
        assert one.live == len(live)
    for request in live:
        one.release(request, 0.0)
    assert one.live == 0


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9), st.booleans()), max_size=40))
def test_two_gateways_know_of_each_other_what_the_store_has(steps: list[tuple[int, int, bool]]) -> None:
    """Each charges, writes and hears late; in the end both know the whole, and nothing is counted twice."""
    gateways = [account(tokens_per_minute=10**6), account(tokens_per_minute=10**6)]
    store = Usage()

    def write(one: Account) -> None:
        nonlocal store
        usage = one.unwritten
        one.written += usage
        store += usage

    total = 0
    for who, tokens, heard in steps:
        one = gateways[who]
        request = Request()
        one.admit(request, 0.0)
        request.spent = tokens
        one.release(request, 0.0)
        total += tokens
        write(one)
        if heard:
            gateways[1 - who].reported(store, 0.0)
        for each in gateways:
            assert each.used.tokens <= total
    for one in gateways:
        write(one)
    for one in gateways:
        one.reported(store, 0.0)
        assert one.used == Usage(len(steps), total)
        assert one.headers(0.0)["x-ratelimit-remaining-tokens"] == str(10**6 - total)


def test_tokens_count_while_they_are_made() -> None:
    one = account(tokens_per_minute=100, token_budget=250)
    request = Request()
    one.admit(request, 0.0)
    request.spent = 130
    assert refusal(one, 0.0).message == (
        "this key may use 100 tokens a minute; there is room again in 18.6s"  # (130 - 100 + 1) / 100 of a minute
    )
    one.admit(Request(), 18.7)
    request.spent = 250
    assert refusal(one, 600.0).kind is ErrorKind.INSUFFICIENT_QUOTA


def test_what_a_key_used_before_a_restart_counts_for_its_budget_and_not_for_this_minute() -> None:
    key, _ = new_key("test", token_budget=100, tokens_per_minute=50)
    restarted = Account(key, 0.0, others=Usage(3, 90))
    assert restarted.headers(0.0)["x-ratelimit-remaining-tokens"] == "50"
    restarted.reported(Usage(4, 100), 0.0)
    assert restarted.headers(0.0)["x-ratelimit-remaining-tokens"] == "40"
    assert refusal(restarted, 0.0).message == "this key has used its budget: 100 of 100 tokens"


def test_requests_on_other_gateways_count() -> None:
    one = account(concurrency=2)
    one.elsewhere = 1
    one.admit(Request(), 0.0)
    assert "has 2" in refusal(one, 0.0).message


def test_a_refused_request_costs_nothing() -> None:
    one = account(requests_per_minute=5, concurrency=1)
    one.admit(Request(), 0.0)
    refusal(one, 0.0)
    assert one.headers(0.0)["x-ratelimit-remaining-requests"] == "4"
    assert one.used.requests == 1


def test_a_changed_key_keeps_what_was_used() -> None:
    one = account(requests_per_minute=1)
    one.admit(Request(), 0.0)
    refusal(one, 0.0)
    changed: Key = new_key("test", requests_per_minute=2)[0]
    one.change(changed, 0.0)
    one.admit(Request(), 0.0)
    assert one.used.requests == 2


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = Bucket(60, 100.0)
    bucket.take(60, 100.0)
    assert bucket.level(90.0) == 0
    bucket.take(0, 90.0)
    assert bucket.level(101.0) == pytest.approx(1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.12, "120ms"), (1, "1s"), (1.5, "1.5s"), (59.9995, "1m0s"), (360, "6m0s"), (3720.25, "1h2m0.25s")],
)
def test_durations_as_the_headers_have_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
