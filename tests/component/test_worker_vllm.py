"""A worker that also speaks vLLM's gRPC service, asked by the stubs of smg-grpc-proto, which are not ours."""

from __future__ import annotations

import asyncio
import hashlib
import io
import zipfile
from collections.abc import AsyncGenerator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from transformers import AutoTokenizer

from mesh.engine.base import (
    Chat,
    ChoiceFinished,
    Constraint,
    Delta,
    Embeddings,
    Finished,
    FinishReason,
    Message,
    Started,
    Text,
    TokenLogprob,
    Tokens,
    TopLogprob,
)
from mesh.engine.script import ScriptCodec
from mesh.engine.scripted import ScriptedEngine, ScriptedOptions
from mesh.join import JoinToken
from mesh.v1 import inference_pb2 as pb
from mesh.vllm.v1 import engine_pb2
from mesh.worker.call import WINDOW
from tests.component.manual_engine import INFO, ManualEngine
from tests.component.worker_rig import LIMIT, Rig, serving
from tests.etcd_server import make_certificates
from tests.harness import eventually

vllm: Any = import_module("smg_grpc_proto.generated.vllm_engine_pb2")
vllm_grpc: Any = import_module("smg_grpc_proto.generated.vllm_engine_pb2_grpc")
common: Any = import_module("smg_grpc_proto.generated.common_pb2")

PROMPT = [300, 301, 302]


class Embedder(ManualEngine):
    """Also embeds."""

    async def embed(
        self,
        model: str,
        inputs: Sequence[Text | Tokens],
        *,
        dimensions: int | None,
        normalize: bool | None,
        truncate: bool,
    ) -> Embeddings:
        assert (model, inputs, dimensions, normalize, truncate) == ("manual", [Tokens((5, 6))], None, None, False)
        return Embeddings([[0.5, -1.0]], 2)


@pytest.fixture
async def engine() -> ManualEngine:
    return Embedder()


@pytest.fixture
async def rig(engine: ManualEngine) -> AsyncGenerator[Rig]:
    async with serving(engine, also_speak=("vllm",)) as serving_rig:
        yield serving_rig


def stub(rig: Rig) -> Any:
    return vllm_grpc.VllmEngineStub(rig.channel)


def request(*, ids: Sequence[int] = PROMPT, stream: bool = True, name: str = "r1", **sampling: Any) -> Any:
    return vllm.GenerateRequest(
        request_id=name,
        tokenized=vllm.TokenizedInput(input_ids=ids),
        sampling_params=vllm.SamplingParams(**sampling),
        stream=stream,
    )


async def answered(call: Any) -> list[Any]:
    return [message async for message in call]


async def one_key(engine: ManualEngine) -> int:
    await eventually(lambda: len(engine.keys) == 1)
    return engine.keys[0]


def ended(key: int, choice: int, reason: FinishReason, **more: Any) -> ChoiceFinished:
    return ChoiceFinished(key, choice, reason, **more)


def test_our_description_of_the_service_is_that_of_others() -> None:
    ours, theirs = engine_pb2.DESCRIPTOR.message_types_by_name, dict(vllm.DESCRIPTOR.message_types_by_name)
    theirs |= common.DESCRIPTOR.message_types_by_name
    compared = 0
    for name, message in ours.items():
        for field in message.fields:
            other = theirs[name].fields_by_name[field.name]
            compared += 1
            for fact in ("number", "type", "is_repeated", "has_presence"):
                assert getattr(field, fact) == getattr(other, fact), f"{name}.{field.name}"
            assert (field.containing_oneof is None) == (other.containing_oneof is None), f"{name}.{field.name}"
    assert compared > 100
    # Whatever a request may say is described, so that it can be refused.
    for name in ("GenerateRequest", "SamplingParams", "EmbedRequest"):
        assert {field.name for field in ours[name].fields} == {field.name for field in theirs[name].fields}


async def test_a_streamed_answer_is_the_one_that_the_mesh_gives() -> None:
    async with serving(ScriptedEngine(ScriptedOptions(tokens=12)), also_speak=("vllm",)) as rig:
        options: dict[str, Any] = {"temperature": 0.7, "seed": 5, "n": 2, "logprobs": 2, "max_tokens": 8}
        messages = await answered(stub(rig).Generate(request(**options)))
        output = pb.OutputOptions(logprobs=options.pop("logprobs"))
        ours = pb.GenerateRequest(tokens=pb.TokenIds(ids=PROMPT), sampling=pb.SamplingOptions(**options), output=output)
        deltas = [event.delta async for event in rig.inference.Generate(ours) if event.HasField("delta")]
        for choice in (0, 1):
            wanted = [delta for delta in deltas if delta.choice == choice]
            chunks = [m.chunk for m in messages if m.HasField("chunk") and m.chunk.index == choice]
            ids = [token for chunk in chunks for token in chunk.token_ids]
            assert ids == [token for delta in wanted for token in delta.token_ids]
            assert [chunk.completion_tokens for chunk in chunks] == list(range(1, len(ids) + 1))
            for chunk, delta in zip(chunks, wanted, strict=True):
                assert chunk.output_logprobs.token_logprobs == pytest.approx([delta.logprobs[0].logprob])
                top = chunk.output_logprobs.top_logprobs[0]
                assert list(top.token_ids) == [item.token_id for item in delta.logprobs[0].top]
                assert chunk.prompt_tokens == 3
            (end,) = [m.complete for m in messages if m.HasField("complete") and m.complete.index == choice]
            assert (list(end.output_ids), end.completion_tokens, end.finish_reason) == (ids, len(ids), "length")
        assert messages[-1].HasField("complete")


async def test_an_answer_that_is_not_streamed_comes_whole(rig: Rig, engine: ManualEngine) -> None:
    call = asyncio.create_task(answered(stub(rig).Generate(request(stream=False, stop_token_ids=[9], n=2, logprobs=0))))
    key = await one_key(engine)
    assert engine.requests[key].credit is None
    engine.start_all()
    scores = [[TokenLogprob(token, -token, b"", [])] for token in range(10)]
    for token in range(1, 9):
        engine.step(Delta(key, 0, (token,), "", scores[token]))
    engine.step(Delta(key, 1, (9,), "", scores[9]), ended(key, 1, FinishReason.STOP, stop_token_id=9, tokens=1))
    engine.step(ended(key, 0, FinishReason.STOP, stop_string="8", tokens=8), Finished(key, 3, 9))
    second, first = [message.complete for message in await call]
    assert (list(second.output_ids), second.index, second.matched_token_id) == ([9], 1, 9)
    assert (list(first.output_ids), first.index, first.matched_stop_str) == ([*range(1, 9)], 0, "8")
    assert list(first.output_logprobs.token_logprobs) == [-token for token in range(1, 9)]
    assert (first.finish_reason, first.prompt_tokens, first.completion_tokens) == ("stop", 3, 8)


async def test_the_end_of_turn_is_no_stop_of_the_request(rig: Rig, engine: ManualEngine) -> None:
    call = asyncio.create_task(answered(stub(rig).Generate(request(stop_token_ids=[9]))))
    key = await one_key(engine)
    end_of_turn = ended(key, 0, FinishReason.STOP, stop_token_id=2, tokens=1)
    engine.step(Delta(key, 0, (2,), ""), end_of_turn, Finished(key, 3, 1))
    _, end = await call
    assert end.complete.finish_reason == "stop"
    assert end.complete.WhichOneof("matched_stop") is None


async def test_log_probabilities_of_the_prompt_come_with_the_first_message(rig: Rig, engine: ManualEngine) -> None:
    call = asyncio.create_task(answered(stub(rig).Generate(request(prompt_logprobs=1))))
    key = await one_key(engine)
    assert engine.requests[key].output.prompt_logprobs == 1
    scores = [TokenLogprob(300, 0.0, b"", []), TokenLogprob(301, -2.0, b"", [TopLogprob(4, -1.0, b"")])]
    engine.step(Started(key, 2, 1, scores), Delta(key, 0, (1,), ""), Delta(key, 0, (3,), ""))
    engine.step(ended(key, 0, FinishReason.LENGTH, tokens=2), Finished(key, 2, 2))
    first, second, _ = await call
    told = first.chunk.input_logprobs
    assert [score.HasField("value") for score in told.token_logprobs] == [False, True]
    assert told.token_logprobs[1].value == -2
    assert (list(told.token_ids), list(told.top_logprobs[1].token_ids)) == ([300, 301], [4])
    assert first.chunk.cached_tokens == 1
    assert not second.chunk.HasField("input_logprobs")


async def test_every_option_reaches_the_engine(rig: Rig, engine: ManualEngine) -> None:
    wanted: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 7,
        "min_p": 0.125,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "repetition_penalty": 1.5,
        "max_tokens": 9,
        "min_tokens": 2,
        "seed": 77,
        "ignore_eos": True,
        "n": 3,
    }
    given = request(**wanted, stop=["a", "b"], stop_token_ids=[4], logit_bias={5: -1.5}, skip_special_tokens=True)
    call = stub(rig).Generate(given)
    made = engine.requests[await one_key(engine)]
    assert {name: getattr(made.sampling, name) for name in wanted} == wanted
    assert (made.sampling.stop, made.sampling.stop_token_ids) == (("a", "b"), (4,))
    assert (made.sampling.logit_bias, made.sampling.keep_special_tokens) == ({5: -1.5}, False)
    assert (made.request_id, made.prompt, made.model, made.credit) == ("r1", Tokens(tuple(PROMPT)), "manual", WINDOW)
    call.cancel()


async def test_what_is_unset_has_the_defaults_of_vllm(rig: Rig, engine: ManualEngine) -> None:
    call = stub(rig).Generate(vllm.GenerateRequest(text="hello"))
    made = engine.requests[await one_key(engine)]
    assert made.prompt == Text("hello")
    sampling = made.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.n) == (1, 1, 0, 1)
    assert (sampling.repetition_penalty, sampling.max_tokens, sampling.drawn_seed) == (1, None, True)
    call.cancel()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"json_schema": '{"type": "object"}'}, Constraint("json_schema", '{"type": "object"}')),
        ({"regex": "a+"}, Constraint("regex", "a+")),
        ({"grammar": 'start: "a"'}, Constraint("grammar", 'start: "a"')),
        ({"json_object": True}, Constraint("json_object")),
        ({"choice": vllm.ChoiceConstraint(choices=["x", "y"])}, Constraint("choice", ("x", "y"))),
    ],
)
async def test_constraints_reach_the_engine(
    rig: Rig, engine: ManualEngine, given: dict[str, Any], wanted: Constraint
) -> None:
    call = stub(rig).Generate(request(**given))
    assert engine.requests[await one_key(engine)].constraint == wanted
    call.cancel()


REFUSED = {
    "structural_tag": request(structural_tag="{}"),
    "truncate_prompt_tokens": request(truncate_prompt_tokens=5),
    "logprobs": request(logprobs=-1),
    "prompt_logprobs": request(prompt_logprobs=21),
    "top_p": request(top_p=1.5),
    "logit_bias": request(logit_bias={-1: 1.0}),
    "choice": request(choice=vllm.ChoiceConstraint()),
    "tokens": request(ids=[]),
    "input": vllm.GenerateRequest(request_id="r"),
    "mm_inputs": vllm.GenerateRequest(mm_inputs=vllm.MultimodalInputs(mm_hashes=["a"])),
    "extra_mm_inputs": vllm.GenerateRequest(extra_mm_inputs=[vllm.MultimodalInputs()]),
    "media_refs": vllm.GenerateRequest(media_refs=vllm.MediaRefs()),
    "kv_transfer_params": vllm.GenerateRequest(kv_transfer_params=vllm.KvTransferParams(remote_host="h")),
    "kv_transfer_params_json": vllm.GenerateRequest(kv_transfer_params_json="{}"),
    "data_parallel_rank": vllm.GenerateRequest(data_parallel_rank=1),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_honoured_is_refused_by_name(rig: Rig, engine: ManualEngine, name: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answered(stub(rig).Generate(REFUSED[name]))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"'{name}'" in (caught.value.details() or "")
    assert not engine.requests


async def test_what_the_engine_cannot_is_no_missing_method(rig: Rig, engine: ManualEngine) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answered(stub(rig).GetTokenizer(common.GetTokenizerRequest()))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_abort_ends_the_rows_and_the_call(rig: Rig, engine: ManualEngine) -> None:
    call = asyncio.create_task(answered(stub(rig).Generate(request(n=2, name="mine"))))
    key = await one_key(engine)
    engine.step(Delta(key, 1, (7,), ""))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answered(stub(rig).Generate(request(name="mine")))
    assert "'request_id' is 'mine'" in (caught.value.details() or "")
    await stub(rig).Abort(vllm.AbortRequest(request_ids=["another", "mine"]))
    messages = await call
    assert messages[-1].complete.finish_reason == "abort"
    assert list(messages[-1].complete.output_ids) == [7]
    assert engine.cancelled == [key]
    # The name is free again.
    again = stub(rig).Generate(request(name="mine"))
    await one_key(engine)
    again.cancel()


async def test_a_client_that_hangs_up_leaves_no_row(rig: Rig, engine: ManualEngine) -> None:
    call = stub(rig).Generate(request())
    key = await one_key(engine)
    call.cancel()
    await eventually(lambda: engine.cancelled == [key])


async def test_a_client_that_does_not_read_gets_no_more_credit(rig: Rig, engine: ManualEngine) -> None:
    call = stub(rig).Generate(request())
    key = await one_key(engine)
    engine.step(Delta(key, 0, (1, 2, 3), ""))
    await call.read()
    await eventually(lambda: engine.granted == [(key, 3)])
    call.cancel()


async def test_an_embedding(rig: Rig) -> None:
    given = vllm.EmbedRequest(request_id="e", tokenized=vllm.TokenizedInput(input_ids=[5, 6]))
    found = await stub(rig).Embed(given)
    assert (list(found.embedding), found.prompt_tokens, found.embedding_dim) == ([0.5, -1.0], 2, 2)


async def test_what_is_told_of_model_server_and_load(rig: Rig, engine: ManualEngine) -> None:
    model = await stub(rig).GetModelInfo(vllm.GetModelInfoRequest())
    assert (model.served_model_name, model.max_context_length, model.vocab_size) == ("manual", 4096, 1000)
    assert (list(model.eos_token_ids), model.is_generation, model.supports_vision) == ([2], True, False)
    call = stub(rig).Generate(request())
    await one_key(engine)
    server = await stub(rig).GetServerInfo(vllm.GetServerInfoRequest())
    assert (server.active_requests, server.server_type, server.max_num_seqs) == (1, "vllm-grpc", 8)
    loads = await stub(rig).GetLoads(vllm.GetLoadsRequest())
    assert (loads.dp_rank_count, loads.loads[0].num_running_reqs, loads.loads[0].max_running_requests) == (1, 1, 8)
    call.cancel()


async def test_a_drain_is_told_and_kept_to(rig: Rig) -> None:
    assert (await stub(rig).HealthCheck(vllm.HealthCheckRequest())).healthy
    await rig.server.drain()
    assert not (await stub(rig).HealthCheck(vllm.HealthCheckRequest())).healthy
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answered(stub(rig).Generate(request()))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_tokenizer_that_is_handed_over_makes_the_same_tokens(tmp_path: Path) -> None:
    async with serving(ScriptedEngine(ScriptedOptions()), also_speak=("vllm",)) as rig:
        pieces = await answered(stub(rig).GetTokenizer(common.GetTokenizerRequest()))
    archive = b"".join(piece.data for piece in pieces)
    assert [piece.sha256 for piece in pieces] == [""] * (len(pieces) - 1) + [hashlib.sha256(archive).hexdigest()]
    zipfile.ZipFile(io.BytesIO(archive)).extractall(tmp_path)
    auto: Any = AutoTokenizer
    theirs, ours = auto.from_pretrained(tmp_path), ScriptCodec()
    for text in ("Once upon a time", " the theory  of then, ünïcode 漢", "a\nb the\tx", "  "):
        ids = ours.encode(text)
        assert theirs.encode(text) == ids
        assert theirs.decode(ids[1:]) == text.removeprefix(" ")
    spoken = [{"role": "system", "content": "Be good."}, {"role": "user", "content": "the fox"}]
    rendered = theirs.apply_chat_template(spoken, tokenize=False, add_generation_prompt=True)
    chat = Chat(tuple(Message(message["role"], (message["content"],)) for message in spoken))
    assert theirs.encode(rendered, add_special_tokens=False) == ours.render(chat)


async def test_without_the_setting_there_is_no_such_service(engine: ManualEngine) -> None:
    async with serving(engine) as rig:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub(rig).HealthCheck(vllm.HealthCheckRequest())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_join_token_shuts_this_door_and_a_certificate_opens_it(tmp_path: Path, engine: ManualEngine) -> None:
    token = JoinToken("a secret of this mesh")
    async with serving(engine, also_speak=("vllm",), join=token) as rig:
        for call in (stub(rig).Generate(request()).read(), stub(rig).HealthCheck(vllm.HealthCheckRequest())):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert not engine.requests
    tls = make_certificates(tmp_path)
    async with serving(Embedder(), also_speak=("vllm",), join=token, tls=tls) as rig:
        assert (await stub(rig).HealthCheck(vllm.HealthCheckRequest(), timeout=LIMIT)).healthy
        # The certificate opens this service, and not the mesh's own.
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rig.inference.DescribeModel(pb.DescribeModelRequest(model=INFO.name))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
