"""The engine of a vLLM server behind gRPC: beside the default engine on the same model, and in a mesh
whose server dies.

The servers are workers of ours that speak vLLM's service, and, for what those would never do, one that is written here
with the stubs of smg-grpc-proto.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from transformers import PreTrainedModel

from mesh.engine.base import Chat, Constraint, FinishReason, Message, Output, Step
from mesh.engine.script_tokenizer import tokenizer_files
from mesh.engine.sourced.engine import SourcedEngine
from mesh.engine.transformers.engine import TransformersEngine
from mesh.engine.transformers.loading.options import LoadOptions
from mesh.engine.transformers.options import EngineOptions
from mesh.errors import ErrorKind, MeshError
from mesh.worker.vllm.archive import pack
from mesh.worker.vllm.upstream import UpstreamOptions, UpstreamSource
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.whole_mesh import add
from tests.component.worker_rig import serving
from tests.harness import Worker, eventually
from tests.model import tiny
from tests.model.driver import Answer, Driver, prompt_of

vllm: Any = import_module("smg_grpc_proto.generated.vllm_engine_pb2")
vllm_grpc: Any = import_module("smg_grpc_proto.generated.vllm_engine_pb2_grpc")
common: Any = import_module("smg_grpc_proto.generated.common_pb2")

Saved = tuple[str, PreTrainedModel]
ASKED = {"model": "m", "prompt": [300, 300], "max_tokens": 2, "temperature": 0}
# Tokens of an answer: long enough to kill a server in the middle.
LENGTH = 400


def upstream(address: str, **text: Any) -> SourcedEngine:
    """The engine of a server."""
    return SourcedEngine(UpstreamSource(UpstreamOptions(address, LoadOptions("", **text))), max_rows=8)


class UpstreamDriver(Driver):
    """Its engine for the duration of `async with`."""

    def __init__(self, address: str, **text: Any) -> None:
        self.engine = upstream(address, **text)
        self.answers: dict[int, Answer] = {}
        self.steps: list[Step] = []


def computing(path: str) -> TransformersEngine:
    return TransformersEngine(EngineOptions(LoadOptions(path, name="m", threads=1), max_rows=8))


@pytest.fixture
async def pair(llama: Saved) -> AsyncGenerator[tuple[Driver, UpstreamDriver]]:
    """The default engine, and the engine of a server that runs the same model."""
    async with (
        Driver(llama[0]) as plain,
        serving(computing(llama[0]), also_speak=("vllm",)) as rig,
        UpstreamDriver(f"127.0.0.1:{rig.port}") as driver,
    ):
        yield plain, driver


def told(answer: Answer) -> Any:
    """What a client sees of an answer."""
    assert answer.failed is None, answer.failed
    assert answer.started is not None
    assert answer.finished is not None
    ends = {choice: (end.reason, end.stop_string, end.stop_token_id) for choice, end in answer.ends.items()}
    counts = answer.started.prompt_tokens, answer.finished.completion_tokens
    return answer.tokens, answer.text, ends, counts


STORY = Chat((Message("user", ("Tell me a story.",)),))
FORM = Constraint("json_schema", '{"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}')


async def test_answers_are_those_of_the_engine_behind(pair: tuple[Driver, UpstreamDriver], llama: Saved) -> None:
    plain, driver = pair
    whole = await plain.ask(prompt_of(9), tokens=24)
    cases: list[dict[str, Any]] = [
        {"prompt": prompt_of(9), "tokens": 24},
        {"prompt": "Once upon a time", "sampling": {"n": 2}},
        {"prompt": STORY, "sampling": {"ignore_eos": False, "frequency_penalty": 0.5, "logit_bias": {65: 5.0}}},
        {"prompt": prompt_of(9), "tokens": 24, "sampling": {"stop": (whole.text[0][5:8],)}},
        {"prompt": prompt_of(9), "tokens": 24, "sampling": {"stop_token_ids": (whole.ids[6],), "min_tokens": 3}},
        {"prompt": prompt_of(9), "tokens": 40, "constraint": FORM},
        {"prompt": prompt_of(9), "tokens": 24, "resume": {0: whole.ids[:10]}},
    ]
    for case in cases:
        wanted, found = [await engine.ask(**case) for engine in (plain, driver)]
        assert told(found) == told(wanted), case
    scored, found = [await engine.ask(prompt_of(7), output=Output(logprobs=2)) for engine in (plain, driver)]
    for mine, theirs in zip(scored.logprobs, found.logprobs, strict=True):
        assert (theirs.token_id, theirs.token) == (mine.token_id, mine.token)
        assert theirs.logprob == pytest.approx(mine.logprob, abs=1e-5)
        assert [top.token_id for top in theirs.top] == [top.token_id for top in mine.top]


async def test_cancel_ends_the_rows_of_the_server(llama: Saved) -> None:
    async with (
        serving(computing(llama[0]), also_speak=("vllm",)) as rig,
        UpstreamDriver(f"127.0.0.1:{rig.port}") as driver,
    ):
        key = await driver.submit(prompt_of(5), tokens=100, sampling={"n": 2})
        await driver.until_tokens(key, 1)
        driver.engine.cancel(key)
        await eventually(lambda: len(rig.server.streams) == 0)
        assert driver.stat("rows_live") == 0


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("cache_salt", {"cache_salt": "s"}),
        ("prompt_logprobs", {"output": Output(prompt_logprobs=0)}),
        ("typical_p", {"sampling": {"typical_p": 0.5}}),
    ],
)
async def test_what_the_service_has_no_field_for_is_refused(name: str, given: dict[str, Any]) -> None:
    async with Foreign().serving() as address, UpstreamDriver(address) as driver:
        with pytest.raises(MeshError) as caught:
            await driver.submit(prompt_of(3), **given)
    assert caught.value.param == name


class Foreign(vllm_grpc.VllmEngineServicer):
    """A vLLM server that answers with what a test says."""

    def __init__(self, *messages: Any, code: grpc.StatusCode | None = None, **model: Any) -> None:
        self.messages = messages
        self.code = code
        self.requests: list[Any] = []
        self.model = vllm.GetModelInfoResponse(
            **{"served_model_name": "m", "is_generation": True, "max_context_length": 64, "vocab_size": 468, **model}
        )
        self.digest: str | None = None
        self.prefilled = asyncio.Event()  # until then it says nothing of a request
        self.prefilled.set()

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[str]:
        """Its address."""
        server = grpc.aio.server()
        vllm_grpc.add_VllmEngineServicer_to_server(self, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)

    async def GetModelInfo(self, request: Any, context: Any) -> Any:
        return self.model

    async def GetTokenizer(self, request: Any, context: Any) -> AsyncGenerator[Any]:
        archive = pack(tokenizer_files())
        yield common.GetTokenizerChunk(data=archive[:1000])
        yield common.GetTokenizerChunk(data=archive[1000:], sha256=self.digest or sha256(archive).hexdigest())

    async def Generate(self, request: Any, context: Any) -> AsyncGenerator[Any]:
        self.requests.append(request)
        await self.prefilled.wait()
        for message in self.messages:
            yield message
        if self.code is not None:
            await context.abort(self.code, "as told")


def chunk(*ids: int, **more: Any) -> Any:
    return vllm.GenerateResponse(chunk=vllm.GenerateStreamChunk(token_ids=ids, **more))


async def test_several_tokens_in_a_message_and_one_more_logprob_than_asked_for() -> None:
    # vLLM tells the chosen token among the likeliest, in its own place or behind them.
    tops = [
        vllm.TopLogProbs(token_ids=[301, 7], values=[-0.5, -1.0]),
        vllm.TopLogProbs(token_ids=[302, 9], values=[-4.0, -0.1]),
    ]
    scores = vllm.OutputLogProbs(token_logprobs=[-0.5, -4.0], token_ids=[301, 302], top_logprobs=tops)
    foreign = Foreign(chunk(301, 302, output_logprobs=scores, cached_tokens=2), eos_token_ids=[256])
    async with foreign.serving() as address, UpstreamDriver(address) as driver:
        answer = await driver.ask(prompt_of(3), tokens=2, output=Output(logprobs=1))
    assert answer.ids == [301, 302]
    assert answer.ends[0].reason is FinishReason.LENGTH
    assert answer.started is not None
    assert answer.started.cached_tokens == 2
    assert [item.logprob for item in answer.logprobs] == [-0.5, -4.0]
    assert [[top.token_id for top in item.top] for item in answer.logprobs] == [[301], [9]]
    (asked,) = foreign.requests
    params = asked.sampling_params
    assert (list(asked.tokenized.input_ids), params.max_tokens, params.n, asked.stream) == (prompt_of(3), 2, 1, True)
    assert (params.temperature, params.HasField("temperature"), params.HasField("seed")) == (0, True, False)


@pytest.mark.parametrize(
    ("foreign", "kind", "words"),
    [
        (Foreign(chunk(301)), ErrorKind.PROTOCOL_ERROR, "before its end"),
        (Foreign(code=grpc.StatusCode.UNAVAILABLE), ErrorKind.WORKER_LOST, "as told"),
        (Foreign(code=grpc.StatusCode.INVALID_ARGUMENT), ErrorKind.INVALID_REQUEST, "as told"),
        (Foreign(code=grpc.StatusCode.RESOURCE_EXHAUSTED), ErrorKind.OVERLOADED, "as told"),
        (Foreign(code=grpc.StatusCode.UNAUTHENTICATED), ErrorKind.ENGINE_FAILED, "failed to serve"),
    ],
)
async def test_what_goes_wrong_there_has_a_kind_here(foreign: Foreign, kind: ErrorKind, words: str) -> None:
    async with foreign.serving() as address, UpstreamDriver(address) as driver:
        answer = await driver.ask(prompt_of(3), tokens=5)
    assert answer.failed is not None
    assert answer.failed.error.kind is kind
    assert words in answer.failed.error.message


async def test_a_server_that_cannot_be_used_is_one_sentence() -> None:
    damaged = Foreign()
    damaged.digest = "0" * 64
    for foreign, options, words in (
        (damaged, {}, "came damaged"),
        (Foreign(is_generation=False), {}, "generates no text"),
        (Foreign(), {"context_length": 65}, "between 1 and 64"),
    ):
        async with foreign.serving() as address:
            with pytest.raises(MeshError, match=words):
                async with UpstreamDriver(address, **options):
                    pass
    with pytest.raises(MeshError, match="cannot be used"):  # nobody is there any more
        async with UpstreamDriver(address):
            pass


@pytest.mark.parametrize("patience", [60.0, 0.0])
async def test_a_long_prefill_is_no_frozen_worker_unless_it_takes_too_long(patience: float) -> None:
    foreign = Foreign(chunk(301, 302), eos_token_ids=[256])
    foreign.prefilled.clear()
    async with foreign.serving() as address:
        source = UpstreamSource(UpstreamOptions(address, LoadOptions("")))
        async with (
            serving(SourcedEngine(source, patience=patience)) as rig,
            GatewayUnderTest(stall_floor=0.3, stall_ceiling=0.6) as gateway,
        ):
            await add(gateway, rig)
            asked = asyncio.create_task(gateway.http.post("/v1/completions", json=ASKED))
            if patience:  # far beyond the ceiling, by the worker's own beats
                await eventually(lambda: rig.server.engine.load().steps >= 6, within=20)
                foreign.prefilled.set()
            answer = await asked
            foreign.prefilled.set()
    assert answer.status_code == (200 if patience else 502), answer.text


def by_choice(events: list[Any]) -> dict[int, Any]:
    """Text, end and log probabilities of each choice; in which order those of two choices come is nobody's promise."""
    found: dict[int, Any] = {}
    for item in (item for event in events[:-1] for item in event["choices"]):
        words, ends, scores = found.setdefault(item["index"], ([], [], []))
        words.append(item["delta"].get("content") or "")
        ends += [item["finish_reason"]] if item["finish_reason"] else []
        told: Any = item["logprobs"]["content"] if item["logprobs"] else []
        scores += [score["logprob"] for score in told]
    assert all("".join(words) and ends == ["length"] for words, ends, _ in found.values())
    return {choice: ("".join(words), scores) for choice, (words, _, scores) in found.items()}


async def test_a_server_that_is_killed_in_mid_answer_costs_nothing(tmp_path: Path) -> None:
    path, _ = tiny.save(tmp_path / "model", "Llama", max_position_embeddings=1024)
    asked = {"max_tokens": LENGTH, "temperature": 0, "ignore_eos": True, "n": 2, "logprobs": True, "top_logprobs": 1}
    args = ("--model-path", path, "--model-name", "m", "--threads", "1", "--no-metrics", "--also-speak", "vllm")
    with Worker(tmp_path, "first", *args) as first:
        await asyncio.to_thread(first.wait_ready)
        async with (
            serving(computing(path), also_speak=("vllm",)) as second,
            serving(upstream(first.address), worker_id="to-first") as to_first,
            serving(upstream(f"127.0.0.1:{second.port}"), worker_id="to-second") as to_second,
            GatewayUnderTest() as gateway,
        ):
            await add(gateway, to_first)
            answer = asyncio.create_task(gateway.stream(**asked))
            await eventually(lambda: to_first.server.engine.stats()["output_tokens"] >= 5, within=20)
            first.freeze()  # or it might be ready before the second one is known
            await add(gateway, to_second)
            await asyncio.to_thread(first.kill)
            seen = by_choice(await answer)
            assert to_first.server.streams.counts.failed == 1
            assert to_second.server.streams.counts.finished == 1
            # Nobody else is left to answer it from the beginning.
            undisturbed = by_choice(await gateway.stream(**asked))
            assert seen.keys() == undisturbed.keys() == {0, 1}
            for choice, (words, scores) in undisturbed.items():
                assert seen[choice][0] == words
                # The last bits depend on how many tokens were computed at a time.
                assert seen[choice][1] == pytest.approx(scores, abs=1e-3)
