"""The plain calls of a worker over a real socket: Generate, the helpers, admin, health and reflection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from benchmarks.systems.tcp_proxy import TcpProxy
from mesh import wire
from mesh.dialects import Dialect
from mesh.engine.base import (
    Chat,
    ChoiceFinished,
    Delta,
    Embeddings,
    Failed,
    Finished,
    FinishReason,
    Started,
    Text,
    TokenLogprob,
    Tokens,
    TopLogprob,
)
from mesh.engine.scripted import ScriptedEngine, ScriptedOptions
from mesh.errors import ErrorKind, MeshError
from mesh.v1 import admin_pb2, registry_pb2
from mesh.v1 import inference_pb2 as pb
from tests.component.manual_engine import ManualEngine
from tests.component.worker_rig import LIMIT, Rig, serving
from tests.harness import eventually


class Helper(ManualEngine):
    """Adds the helpers to the engine driven by hand."""

    async def embed(
        self,
        model: str,
        inputs: Sequence[Text | Tokens],
        *,
        dimensions: int | None,
        normalize: bool | None,
        truncate: bool,
    ) -> Embeddings:
        assert (model, truncate) == ("manual", True)
        await self.gate.wait()
        return Embeddings([[1.0] * (dimensions or 3), [0.5 if normalize is None else 2.0]], 4)

    async def tokenize(self, model: str, prompt: Text | Chat, *, add_special_tokens: bool = True) -> list[int]:
        return [len(prompt.messages)] if isinstance(prompt, Chat) else [1, 2] if add_special_tokens else [2]

    async def detokenize(self, model: str, ids: Sequence[int], *, keep_special_tokens: bool = False) -> str:
        return f"{list(ids)} {keep_special_tokens}"


@pytest.fixture
def engine() -> Helper:
    return Helper()


@pytest.fixture
async def rig(engine: Helper) -> AsyncGenerator[Rig]:
    async with serving(engine) as rig:
        yield rig


async def collect(
    call: grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse], into: list[pb.GenerateResponse]
) -> None:
    async for event in call:
        into.append(event)  # noqa: PERF401  # what came before a failure counts


async def failure(call: grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(call, [])
    return caught.value


async def test_generate_streams_every_event_and_ends(rig: Rig, engine: Helper):
    call = rig.inference.Generate(pb.GenerateRequest(text="x"))
    events: list[pb.GenerateResponse] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(collect(call, events))
        await eventually(lambda: engine.keys)
        (key,) = engine.keys
        logprob = TokenLogprob(4, -0.5, b"\xff", [TopLogprob(4, -0.5, b"\xff"), TopLogprob(5, -1.5, b"b")])
        engine.step(Started(key, 3, prompt_token_ids=[7, 8, 9]), Delta(key, 1, (4,), "t", [logprob]))
        engine.step(ChoiceFinished(key, 1, FinishReason.LENGTH), Finished(key, 3, 1))
    assert [event.WhichOneof("event") for event in events] == ["started", "delta", "choice_finished", "finished"]
    assert list(events[0].started.prompt_token_ids) == [7, 8, 9]
    assert events[0].started.fingerprint == "manual-1"
    assert events[1].delta.choice == 1
    assert events[1].delta.logprobs[0].token == b"\xff"
    assert [top.token_id for top in events[1].delta.logprobs[0].top] == [4, 5]
    assert events[2].choice_finished.reason == pb.FINISH_REASON_LENGTH
    assert not events[2].choice_finished.HasField("stop_token_id")
    assert rig.server.streams.counts.finished == 1


async def test_an_answer_that_is_to_be_taken_apart_says_how_it_is_marked():
    options = ScriptedOptions(dialect=Dialect("hermes", "think"), tokens=1)
    async with serving(ScriptedEngine(options)) as rig:
        request = pb.GenerateRequest(output=pb.OutputOptions(markup=True))
        request.chat.messages.add(role="user").parts.add(text="hi")
        events: list[pb.GenerateResponse] = []
        await collect(rig.inference.Generate(request), events)
        described = await rig.inference.DescribeModel(pb.DescribeModelRequest())
    markup = events[0].started.markup
    assert (markup.tool_parser, markup.reasoning_parser) == ("hermes", "think")
    assert markup.prompt_end.endswith("hi<|end|><|assistant|>")
    assert (described.tool_parser, described.reasoning_parser) == ("hermes", "think")


async def test_an_event_whose_fields_are_all_default_is_an_event(rig: Rig, engine: Helper):
    call = rig.inference.Generate(pb.GenerateRequest(text="x"))
    events: list[pb.GenerateResponse] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(collect(call, events))
        await eventually(lambda: engine.keys)
        (key,) = engine.keys
        engine.step(Delta(key, 0, (), ""), Finished(key, 0, 0))
    assert [event.WhichOneof("event") for event in events] == ["delta", "finished"]


async def test_text_without_token_ids_costs_one_token_of_credit(rig: Rig, engine: Helper):
    call = rig.inference.Generate(pb.GenerateRequest(text="x"))
    events: list[pb.GenerateResponse] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(collect(call, events))
        await eventually(lambda: engine.keys)
        (key,) = engine.keys
        engine.step(Started(key, 0, text_only=True), Delta(key, 0, (), "a"), Delta(key, 0, (), "b"))
        await eventually(lambda: engine.granted == [(key, 1)] * 2)
        engine.step(Finished(key, 3, 2))
    assert events[0].started.text_only


async def test_refusals_are_statuses_with_details(rig: Rig):
    error = await failure(
        rig.inference.Generate(pb.GenerateRequest(text="x", sampling=pb.SamplingOptions(temperature=101)))
    )
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    rebuilt = wire.from_rpc_error(error)
    assert (rebuilt.kind, rebuilt.param) == (ErrorKind.INVALID_REQUEST, "temperature")
    assert rebuilt.message == "'temperature' must be between 0 and 100, not 101"


@pytest.mark.parametrize("kind", [ErrorKind.OVERLOADED, ErrorKind.CONTEXT_LENGTH_EXCEEDED, ErrorKind.UNSUPPORTED])
async def test_the_engines_refusal_is_a_status(rig: Rig, engine: Helper, kind: ErrorKind):
    engine.refusal = MeshError(kind, "why — ü", param="p", retry_after=1.5)
    error = await failure(rig.inference.Generate(pb.GenerateRequest(text="x")))
    assert error.code().name == kind.value.grpc_status
    rebuilt = wire.from_rpc_error(error)
    assert (rebuilt.kind, rebuilt.message, rebuilt.param, rebuilt.retry_after) == (kind, "why — ü", "p", 1.5)


async def test_an_unknown_exception_hides_its_text(rig: Rig, engine: Helper):
    engine.refusal = RuntimeError("secret")
    error = await failure(rig.inference.Generate(pb.GenerateRequest(text="x")))
    assert wire.from_rpc_error(error).kind is ErrorKind.ENGINE_FAILED
    assert "secret" not in str(error)


async def test_a_row_that_breaks_ends_the_call_with_its_status(rig: Rig, engine: Helper):
    call = rig.inference.Generate(pb.GenerateRequest(text="x"))
    events: list[pb.GenerateResponse] = []
    reading = asyncio.create_task(collect(call, events))
    await eventually(lambda: engine.keys)
    (key,) = engine.keys
    engine.step(Delta(key, 0, (1,), "first"), Failed(key, MeshError(ErrorKind.DEADLINE_EXCEEDED, "late")))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await reading
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert [event.delta.text for event in events] == ["first"]


async def test_cancelling_the_call_cancels_the_row(rig: Rig, engine: Helper):
    call = rig.inference.Generate(pb.GenerateRequest(text="x"))
    await eventually(lambda: engine.keys)
    call.cancel()
    await eventually(lambda: not engine.requests)
    assert rig.server.streams.counts.cancelled == 1
    assert len(rig.server.streams) == 0


async def test_cancelling_during_submit_cancels_too(rig: Rig, engine: Helper):
    engine.gate.clear()
    call = rig.inference.Generate(pb.GenerateRequest(text="x"))
    await eventually(lambda: engine.submitting == 1)
    call.cancel()
    await eventually(lambda: len(rig.server.streams) == 0)
    engine.gate.set()
    await eventually(lambda: engine.submitting == 0)
    assert engine.requests == {}


async def test_the_calls_deadline_reaches_the_engine(rig: Rig, engine: Helper):
    call = rig.inference.Generate(pb.GenerateRequest(text="x", deadline_ms=60_000), timeout=5)
    await eventually(lambda: engine.keys)
    deadline = engine.requests[engine.keys[0]].deadline
    assert deadline is not None
    assert 0 < deadline - time.monotonic() <= 5
    call.cancel()


async def test_a_client_that_does_not_read_gets_no_more_credit(rig: Rig, engine: Helper):
    call = rig.inference.Generate(pb.GenerateRequest(text="x"))
    await eventually(lambda: engine.keys)
    (key,) = engine.keys
    assert engine.requests[key].credit is not None
    for number in range(100):
        engine.step(Delta(key, 0, (number,), "z" * 50_000))
        await asyncio.sleep(0)
    assert len(engine.granted) < 100
    events: list[pb.GenerateResponse] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(collect(call, events))
        await eventually(lambda: engine.granted == [(key, 1)] * 100)
        engine.step(Finished(key, 1, 100))
    assert len(events) == 101


async def test_draining_refuses_new_calls_and_lets_live_ones_end(rig: Rig, engine: Helper):
    call = rig.inference.Generate(pb.GenerateRequest(text="x"))
    await eventually(lambda: engine.keys)
    await rig.admin.Drain(admin_pb2.DrainRequest())
    error = await failure(rig.inference.Generate(pb.GenerateRequest(text="x")))
    assert wire.from_rpc_error(error).kind is ErrorKind.DRAINING
    events: list[pb.GenerateResponse] = []
    engine.step(Finished(engine.keys[0], 1, 0))
    await collect(call, events)
    assert len(events) == 1
    assert rig.server.streams.draining
    assert not rig.server.stopping.is_set()
    await rig.admin.Drain(admin_pb2.DrainRequest(stop=True))
    assert rig.server.stopping.is_set()


async def test_helpers(rig: Rig):
    inputs = [pb.EmbedInput(text="a"), pb.EmbedInput(tokens=pb.TokenIds(ids=[1]))]
    embedded = await rig.inference.Embed(pb.EmbedRequest(inputs=inputs, dimensions=2, truncate=True))
    assert [list(item.values) for item in embedded.embeddings] == [[1.0, 1.0], [0.5]]
    assert embedded.prompt_tokens == 4
    normalized = await rig.inference.Embed(pb.EmbedRequest(inputs=inputs, normalize=False, truncate=True))
    assert list(normalized.embeddings[1].values) == [2.0]

    tokens = await rig.inference.Tokenize(pb.TokenizeRequest(text="a"))
    assert (list(tokens.token_ids), tokens.context_length) == ([1, 2], 4096)
    tokens = await rig.inference.Tokenize(pb.TokenizeRequest(text="a", add_special_tokens=False))
    assert list(tokens.token_ids) == [2]
    messages = [pb.ChatMessage(role="user", parts=[pb.ContentPart(text="x")])] * 3
    tokens = await rig.inference.Tokenize(pb.TokenizeRequest(chat=pb.ChatPrompt(messages=messages)))
    assert list(tokens.token_ids) == [3]

    text = await rig.inference.Detokenize(pb.DetokenizeRequest(token_ids=[3, 4], keep_special_tokens=True))
    assert text.text == "[3, 4] True"


async def test_a_drain_waits_for_a_call_and_refuses_the_next(rig: Rig, engine: Helper):
    request = pb.EmbedRequest(inputs=[pb.EmbedInput(text="a")] * 2, truncate=True)
    engine.gate.clear()
    call = rig.inference.Embed(request)
    await eventually(lambda: rig.server.streams.busy)
    await rig.server.drain()
    assert not await rig.server.wait_empty(0.05)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.inference.Embed(request)
    assert wire.from_rpc_error(caught.value).kind is ErrorKind.DRAINING
    engine.gate.set()
    assert len((await call).embeddings) == 2
    assert await rig.server.wait_empty(LIMIT)


async def test_helpers_check_their_input(rig: Rig):
    calls = [
        (rig.inference.Embed(pb.EmbedRequest()), "inputs"),
        (rig.inference.Tokenize(pb.TokenizeRequest()), "input"),
        (rig.inference.Tokenize(pb.TokenizeRequest(text="a", model="other")), "model"),
        (rig.inference.Detokenize(pb.DetokenizeRequest(token_ids=[1000])), "token_ids"),
        (rig.inference.DescribeModel(pb.DescribeModelRequest(model="other")), "model"),
    ]
    for call, param in calls:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert wire.from_rpc_error(caught.value).param == param


async def test_what_an_engine_does_not_do_is_said():
    async with serving(ManualEngine()) as rig:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rig.inference.Embed(pb.EmbedRequest(inputs=[pb.EmbedInput(text="a")]))
        assert wire.from_rpc_error(caught.value).kind is ErrorKind.UNSUPPORTED


async def test_describe_model(rig: Rig):
    model = await rig.inference.DescribeModel(pb.DescribeModelRequest())
    assert (model.model, model.fingerprint, model.context_length, model.engine) == (
        "manual",
        "manual-1",
        4096,
        "manual",
    )
    assert list(model.capabilities) == [pb.CAPABILITY_COMPLETION, pb.CAPABILITY_CHAT, pb.CAPABILITY_RESUME]
    assert list(model.eos_token_ids) == [2]


async def test_stats(rig: Rig, engine: Helper):
    call = rig.inference.Generate(pb.GenerateRequest(text="x"))
    await eventually(lambda: engine.keys)
    stats = await rig.admin.GetStats(admin_pb2.GetStatsRequest())
    assert (stats.worker_id, stats.incarnation) == ("worker-under-test", rig.server.identity.incarnation)
    assert stats.state == registry_pb2.WORKER_STATE_READY
    assert (stats.live_streams, stats.streams_started, stats.load.running, stats.load.slots) == (1, 1, 1, 8)
    assert dict(stats.engine) == {"steps": 0}
    call.cancel()
    await rig.admin.Drain(admin_pb2.DrainRequest())
    stats = await rig.admin.GetStats(admin_pb2.GetStatsRequest())
    assert stats.state == registry_pb2.WORKER_STATE_DRAINING


@pytest.mark.parametrize("service", ["", "mesh.v1.InferenceService"])
async def test_health_follows_draining(rig: Rig, service: str):
    stub = cast("Any", health_pb2_grpc.HealthStub)(rig.channel)
    request = health_pb2.HealthCheckRequest(service=service)
    serving_ = health_pb2.HealthCheckResponse.SERVING
    assert (await stub.Check(request)).status == serving_
    watch = stub.Watch(request)
    assert (await watch.read()).status == serving_
    await rig.server.drain()
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()


async def test_reflection_lists_the_services(rig: Rig):
    stub = cast("Any", reflection_pb2_grpc.ServerReflectionStub)(rig.channel)
    call = stub.ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    answer = await call.read()
    names = {service.name for service in answer.list_services_response.service}
    assert {"mesh.v1.InferenceService", "mesh.v1.AdminService", "grpc.health.v1.Health"} <= names
    call.cancel()


async def test_a_link_that_takes_half_a_second_to_connect_is_used() -> None:
    """Another continent, or TLS on a busy machine."""
    async with serving(ScriptedEngine(ScriptedOptions())) as rig, TcpProxy(rig.port) as far:
        far.blackhole()
        asyncio.get_running_loop().call_later(0.5, far.heal)
        async with wire.channel(f"127.0.0.1:{far.port}") as channel:
            await Rig(rig.server, channel, far.port).inference.DescribeModel(pb.DescribeModelRequest(), timeout=LIMIT)
