"""Exact failover: whatever happens to workers, the client sees what a single, perfect worker would have sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import grpc
import pytest

from mesh.errors import ErrorKind, MeshError
from mesh.v1 import inference_pb2 as pb
from tests.component.gateway_fixture import GatewayUnderTest, text, without_identity
from tests.component.gateway_worker import SECOND_CHOICE_ENDS, FakeWorker, Row
from tests.harness import eventually

LENGTH = 12
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two choices": {"n": 2},
    "log probabilities": {"logprobs": True},
}


_KNOWN: dict[str, list[Any]] = {}


async def undisturbed(**fields: Any) -> list[Any]:
    """What a single, perfect worker makes of it; asked once."""
    if repr(fields) not in _KNOWN:
        async with FakeWorker("w0") as worker, GatewayUnderTest() as gateway:
            await gateway.add(worker)
            _KNOWN[repr(fields)] = without_identity(await gateway.stream(max_tokens=LENGTH, **fields))
    return deepcopy(_KNOWN[repr(fields)])


def reached(worker: FakeWorker, tokens: int) -> bool:
    return any(len(row.tokens[0]) >= tokens for row in worker.rows.values())


@pytest.mark.parametrize("after", range(LENGTH))
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
async def test_a_killed_worker_is_not_noticed(after: int, options: dict[str, Any]) -> None:
    fields = {"stream_options": {"include_usage": True}, **options}
    async with FakeWorker("a") as a, FakeWorker("b") as b, GatewayUnderTest() as gateway:
        a.stop_after, b.cached = after, 3
        await gateway.add(a)
        answer = asyncio.create_task(gateway.stream(max_tokens=LENGTH, **fields))
        await eventually(lambda: reached(a, after))
        await gateway.add(b)
        await a.kill()
        events = without_identity(await answer)
        assert gateway.metric("mesh_gateway_resumes_total", model="m", cause="lost") == (1 if after else 0)
    expected = await undisturbed(**fields)
    if not after:  # nothing was seen of the first worker, so the second one's own count stands
        expected[-2]["usage"]["prompt_tokens_details"]["cached_tokens"] = 3
    assert events == expected


@pytest.mark.parametrize("status", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
async def test_a_session_may_end_with_any_status(status: grpc.StatusCode) -> None:
    async with FakeWorker("a") as a, FakeWorker("b") as b, GatewayUnderTest() as gateway:
        a.stop_after = 5
        await gateway.add(a)
        answer = asyncio.create_task(gateway.stream(max_tokens=LENGTH))
        await eventually(lambda: reached(a, 5))
        await gateway.add(b)
        a.ends_with = status
        assert without_identity(await answer) == await undisturbed()
        assert b.starts[0].request.resume.choices[0].token_ids


@pytest.mark.parametrize("kind", [kind for kind in ErrorKind if kind.value.retry_elsewhere])
async def test_a_stream_may_fail_in_its_middle(kind: ErrorKind) -> None:
    def fail(row: Row, events: list[pb.StreamEvent]) -> list[pb.StreamEvent]:
        failed = pb.StreamEvent(stream_id=row.id, failed=pb.Failure(code=kind.value.code, message="as told"))
        return [failed] if len(row.tokens[0]) == 6 else events

    async with FakeWorker("a", pause=0.01) as a, FakeWorker("b") as b, GatewayUnderTest() as gateway:
        a.alter = fail
        await gateway.add(a)
        answer = asyncio.create_task(gateway.stream(max_tokens=LENGTH))
        await eventually(lambda: a.rows)
        await gateway.add(b)
        assert without_identity(await answer) == await undisturbed()


async def test_an_answer_in_one_piece_survives_too() -> None:
    async with FakeWorker("a") as a, FakeWorker("b") as b, GatewayUnderTest() as gateway:
        a.stop_after = 5
        await gateway.add(a)
        answer = asyncio.create_task(gateway.chat(max_tokens=LENGTH, n=2))
        await eventually(lambda: reached(a, 5))
        await gateway.add(b)
        await a.kill()
        found = (await answer).json()
    events = await undisturbed(n=2)
    assert [choice["message"]["content"] for choice in found["choices"]] == [text(events, 0), text(events, 1)]
    assert [choice["finish_reason"] for choice in found["choices"]] == ["length", "stop"]
    assert found["usage"]["completion_tokens"] == LENGTH + SECOND_CHOICE_ENDS


@pytest.mark.parametrize("withheld", [{"finished"}, {"choice_finished", "finished"}], ids=["last event", "reasons too"])
async def test_a_worker_killed_between_its_last_token_and_its_last_event(withheld: set[str]) -> None:
    fields = {"stream_options": {"include_usage": True}}
    async with FakeWorker("a") as a, FakeWorker("b") as b, GatewayUnderTest() as gateway:
        a.withheld = withheld
        await gateway.add(a)
        answer = asyncio.create_task(gateway.stream(max_tokens=LENGTH, **fields))
        await eventually(lambda: a.starts and not a.rows)
        await gateway.add(b)
        await a.kill()
        assert without_identity(await answer) == await undisturbed(**fields)
        assert len(b.starts) == len(withheld) - 1  # nobody is needed for a sum


async def test_a_silent_worker_is_left_and_told_when_it_wakes() -> None:
    async with FakeWorker("a", heartbeat=0.5) as a, FakeWorker("b") as b, GatewayUnderTest() as gateway:
        a.stop_after = 4
        await gateway.add(a)
        answer = asyncio.create_task(gateway.stream(max_tokens=LENGTH))
        await eventually(lambda: reached(a, 4))
        await gateway.add(b)
        a.silent = True
        events = without_identity(await answer)
        a.silent, a.stop_after = False, None
        await eventually(lambda: a.cancels == [1] and not a.rows)
        await eventually(lambda: gateway.session("a"))
        assert gateway.metric("mesh_gateway_resumes_total", model="m", cause="silent") == 1
    assert events == await undisturbed()


async def test_a_worker_whose_engine_stands_still_is_left() -> None:
    settings = {"stall_factor": 5.0, "stall_floor": 0.3}
    async with FakeWorker("a") as a, FakeWorker("b") as b, GatewayUnderTest(**settings) as gateway:
        a.stop_after = 6
        await gateway.add(a)
        answer = asyncio.create_task(gateway.stream(max_tokens=LENGTH))
        await eventually(lambda: reached(a, 6))
        await gateway.add(b)
        assert without_identity(await answer) == await undisturbed()
        assert gateway.metric("mesh_gateway_resumes_total", model="m", cause="stalled") == 1
        await eventually(lambda: not a.rows)


def gone_from(tokens: int) -> Callable[[Row, list[pb.StreamEvent]], list[pb.StreamEvent]]:
    """The worker goes on, and says nothing more of a row that has so many tokens."""
    return lambda row, events: events if len(row.tokens[0]) <= tokens else []


@pytest.mark.parametrize("others", [True, False], ids=["while it serves others", "as the only one"])
async def test_a_stream_that_its_worker_has_forgotten_goes_on_elsewhere(others: bool) -> None:
    settings = {"stall_factor": 5.0, "stall_floor": 0.8}
    async with FakeWorker("a", pause=0.01) as a, FakeWorker("b") as b, GatewayUnderTest(**settings) as gateway:
        a.alter = gone_from(6)
        await gateway.add(a)
        noise: asyncio.Task[object] | None = None
        answer = asyncio.create_task(gateway.stream(max_tokens=LENGTH))
        await eventually(lambda: a.rows)
        if others:
            a.alter = lambda row, events: gone_from(6)(row, events) if row.length == LENGTH else events
            noise = asyncio.create_task(gateway.stream(max_tokens=500))
        await gateway.add(b)
        assert without_identity(await answer) == await undisturbed()
        assert gateway.metric("mesh_gateway_resumes_total", model="m", cause="forgotten") == 1
        assert gateway.session("a"), "it is well otherwise"
        if noise is not None:
            noise.cancel()
            await asyncio.wait([noise])


async def test_a_stream_that_was_forgotten_is_asked_for_again_where_it_was() -> None:
    async with FakeWorker("a") as a, GatewayUnderTest(stall_factor=5.0, stall_floor=0.8) as gateway:
        a.alter = gone_from(6)
        await gateway.add(a)
        answer = asyncio.create_task(gateway.stream(max_tokens=LENGTH))
        await eventually(lambda: a.starts and not a.rows)
        a.alter = lambda _, events: events
        assert without_identity(await answer) == await undisturbed()
        assert len(a.starts) == 2


async def test_a_worker_that_comes_back_only_to_die_goes_last() -> None:
    async with FakeWorker("a") as a, FakeWorker("b") as b, GatewayUnderTest() as gateway:
        a.stop_after, b.stop_after, b.pause = 4, 8, 0.02
        await gateway.add(a)
        answer = asyncio.create_task(gateway.stream(max_tokens=LENGTH))
        await eventually(lambda: reached(a, 4))
        port = int(a.address.rpartition(":")[2])
        await a.kill()
        await a.start(port)
        await eventually(lambda: len(a.starts) == 2)  # alone, it is used again
        await gateway.add(b)
        await a.kill()
        await a.start(port)
        await eventually(lambda: gateway.session("a") and reached(b, 8))
        b.stop_after = None
        assert without_identity(await answer) == await undisturbed()
        assert len(a.starts) == 2


async def test_a_worker_that_stands_still_alone_is_waited_for() -> None:
    async with FakeWorker("a") as a, GatewayUnderTest(stall_factor=5.0, stall_floor=0.2) as gateway:
        a.stop_after = 6
        await gateway.add(a)
        answer = asyncio.create_task(gateway.stream(max_tokens=LENGTH))
        await eventually(lambda: not gateway.session("a"))
        a.stop_after = None
        assert without_identity(await answer) == await undisturbed()
        await eventually(lambda: gateway.session("a"))


async def test_a_standstill_ends_in_an_error_event_at_the_ceiling() -> None:
    settings = {"stall_factor": 5.0, "stall_floor": 0.2, "stall_ceiling": 0.6}
    async with FakeWorker("a") as a, GatewayUnderTest(**settings) as gateway:
        a.stop_after = 6
        await gateway.add(a)
        events = await gateway.stream(max_tokens=LENGTH)
        await eventually(lambda: not a.rows)
    assert (events[-1]["error"]["code"], events[-1]["error"]["type"]) == ("worker_lost", "server_error")
    assert "[DONE]" not in events


async def test_a_draining_worker_hands_over_at_its_next_step() -> None:
    async with FakeWorker("a", pause=0.02) as a, FakeWorker("b") as b, GatewayUnderTest(max_attempts=0) as gateway:
        await gateway.add(a)
        answer = asyncio.create_task(gateway.stream(max_tokens=LENGTH))
        await eventually(lambda: reached(a, 3))
        await gateway.add(b)
        a.draining = True
        assert without_identity(await answer) == await undisturbed()
        assert b.starts[0].request.resume.choices[0].token_ids
        assert gateway.metric("mesh_gateway_resumes_total", model="m", cause="draining") == 1


async def test_a_draining_worker_without_a_successor_ends_its_streams_in_place() -> None:
    async with (
        FakeWorker("a", pause=0.01) as a,
        FakeWorker("b", fingerprint="sha256:other") as b,
        GatewayUnderTest() as gateway,
    ):
        await gateway.add(a)
        answer = asyncio.create_task(gateway.stream(max_tokens=LENGTH))
        await eventually(lambda: reached(a, 3))
        await gateway.add(b)
        a.draining = True
        assert without_identity(await answer) == await undisturbed()
        assert b.starts == []


async def test_another_model_under_the_same_name_never_continues_an_answer() -> None:
    async with (
        FakeWorker("a") as a,
        FakeWorker("b", fingerprint="sha256:other") as b,
        FakeWorker("c") as c,
        GatewayUnderTest() as gateway,
    ):
        a.stop_after = 4
        await gateway.add(a)
        answer = asyncio.create_task(gateway.stream(max_tokens=LENGTH))
        await eventually(lambda: reached(a, 4))
        await gateway.add(b)
        await a.kill()
        await eventually(lambda: gateway.waiting == 1)
        await gateway.add(c)
        assert without_identity(await answer) == await undisturbed()
        assert b.starts == []
        assert c.starts[0].request.expected_fingerprint == a.fingerprint


async def test_a_worker_that_turns_out_to_run_another_model_is_left() -> None:
    async with FakeWorker("a") as a, FakeWorker("b") as b, FakeWorker("c") as c, GatewayUnderTest() as gateway:
        a.stop_after, b.answers_as = 4, "sha256:other"
        await gateway.add(a)
        answer = asyncio.create_task(gateway.stream(max_tokens=LENGTH))
        await eventually(lambda: reached(a, 4))
        await gateway.add(b)
        await a.kill()
        await eventually(lambda: b.starts and gateway.waiting == 1)
        await gateway.add(c)
        assert without_identity(await answer) == await undisturbed()


async def test_a_worker_that_was_left_as_frozen_is_used_again_when_there_is_no_other() -> None:
    async with FakeWorker("a", heartbeat=0.5) as a, FakeWorker("b") as b, GatewayUnderTest() as gateway:
        a.stop_after, b.stop_after = 4, 8
        await gateway.add(a)
        answer = asyncio.create_task(gateway.stream(max_tokens=LENGTH))
        await eventually(lambda: reached(a, 4))
        await gateway.add(b)
        a.silent = True
        await eventually(lambda: reached(b, 8))
        a.silent, a.stop_after = False, None
        await eventually(lambda: gateway.session("a"))
        await b.kill()
        assert without_identity(await answer) == await undisturbed()
        assert len(a.starts) == 2


async def test_a_worker_that_cannot_resume_is_not_asked_to() -> None:
    async with (
        FakeWorker("a") as a,
        FakeWorker("b", capabilities=(pb.CAPABILITY_CHAT,)) as b,
        GatewayUnderTest(queue_timeout=0.3) as gateway,
    ):
        a.stop_after = 4
        await gateway.add(a)
        answer = asyncio.create_task(gateway.stream(max_tokens=LENGTH))
        await eventually(lambda: reached(a, 4))
        await gateway.add(b)
        await a.kill()
        assert (await answer)[-1]["error"]["code"] == "worker_lost"
        assert b.starts == []


async def test_a_worker_that_refuses_is_passed_over() -> None:
    async with FakeWorker("a", slots=100) as a, FakeWorker("b", slots=1) as b, GatewayUnderTest() as gateway:
        a.refusal = MeshError(ErrorKind.OVERLOADED, "full", retry_after=3)
        await gateway.add(a, b)
        for _ in range(8):
            assert (await gateway.chat(max_tokens=2)).status_code == 200
        assert a.starts
        assert len(b.starts) == 8


async def test_when_all_are_overloaded_the_client_is_told_to_come_back() -> None:
    async with FakeWorker("a") as a, FakeWorker("b") as b, GatewayUnderTest(queue_timeout=0.3) as gateway:
        a.refusal = b.refusal = MeshError(ErrorKind.OVERLOADED, "full", retry_after=3)
        await gateway.add(a, b)
        response = await gateway.chat()
    assert response.status_code == 429
    assert response.headers["retry-after"] == "3"
    assert response.json()["error"] == {
        "message": "no worker had room for the model 'm' within 0.3 s: full",
        "type": "rate_limit_error",
        "param": None,
        "code": "overloaded",
    }


async def test_an_answer_that_has_begun_waits_for_an_overloaded_successor() -> None:
    async with FakeWorker("a") as a, FakeWorker("b") as b, GatewayUnderTest(max_attempts=1) as gateway:
        a.stop_after = 4
        b.refusal = MeshError(ErrorKind.OVERLOADED, "full")
        await gateway.add(a)
        answer = asyncio.create_task(gateway.stream(max_tokens=LENGTH))
        await eventually(lambda: reached(a, 4))
        await gateway.add(b)
        await a.kill()
        await eventually(lambda: len(b.starts) >= 2)
        b.refusal = None
        assert without_identity(await answer) == await undisturbed()


async def test_a_refusal_that_no_other_worker_can_mend_is_passed_on() -> None:
    async with FakeWorker("a") as a, FakeWorker("b") as b, GatewayUnderTest() as gateway:
        a.refusal = b.refusal = MeshError(ErrorKind.CONTEXT_LENGTH_EXCEEDED, "5000 tokens, the limit is 4096")
        await gateway.add(a, b)
        response = await gateway.chat()
        assert len(a.starts) + len(b.starts) == 1
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}]}, "messages"),
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "stream": True}, "messages"),
        ("completions", {"prompt": "x"}, "prompt"),
        ("responses", {"input": "x", "store": False}, "input"),
        ("decisions", {"input": "x", "questions": [{"type": "predicate", "instructions": "y"}]}, "input"),
    ],
)
async def test_a_prompt_that_is_too_long_is_named_as_the_route_names_it(
    path: str, body: dict[str, Any], param: str
) -> None:
    async with FakeWorker("a") as worker, GatewayUnderTest() as gateway:
        worker.refusal = MeshError(ErrorKind.CONTEXT_LENGTH_EXCEEDED, "the prompt has 9 tokens", param="prompt")
        await gateway.add(worker)
        response = await gateway.http.post(f"/v1/{path}", json={"model": "m", **body})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", param)


async def test_attempts_are_bounded() -> None:
    workers = [FakeWorker(f"w{index}") for index in range(5)]
    async with GatewayUnderTest(max_attempts=2) as gateway:
        for worker in workers:
            worker.refusal = MeshError(ErrorKind.ENGINE_FAILED, "out of memory")
            await worker.start()
        await gateway.add(*workers)
        response = await gateway.chat()
        for worker in workers:
            await worker.kill()
    assert (response.status_code, response.json()["error"]["code"]) == (500, "engine_failed")
    assert sum(len(worker.starts) for worker in workers) == 3


async def test_every_attempt_draws_with_the_same_seed_although_the_client_sent_none() -> None:
    async with FakeWorker("a") as a, FakeWorker("b") as b, GatewayUnderTest() as gateway:
        a.stop_after = 4
        await gateway.add(a)
        answer = asyncio.create_task(gateway.chat(max_tokens=LENGTH, seed=None))
        await eventually(lambda: reached(a, 4))
        await gateway.add(b)
        await a.kill()
        assert (await answer).status_code == 200
    first, second = a.starts[0].request, b.starts[0].request
    assert first.sampling.HasField("seed")
    assert second.sampling == first.sampling
    assert (first.attempt, second.attempt) == (0, 1)


def waiting_writers() -> list[str]:
    """gRPC's tasks that wait for what is to be sent."""
    return [name for task in asyncio.all_tasks() if "_consume_request_iterator" in (name := repr(task.get_coro()))]


async def test_of_a_lost_session_no_task_is_left() -> None:
    """Dropped while it waits, a task has asyncio log an error, some time later."""
    async with FakeWorker("a") as a, GatewayUnderTest() as gateway:
        await gateway.add(a)
        assert len(waiting_writers()) == 1
        await a.kill()
        await eventually(lambda: not waiting_writers())
