"""/v1/files and /v1/batches: by OpenAI's SDK, with restarts in the middle, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import Batch, FileObject

from gateway.batches.runner import AT_ONCE
from mesh.errors import ErrorKind, MeshError
from mesh.keys import new_key
from mesh.v1 import inference_pb2 as pb
from tests.component.gateway_fixture import GatewayUnderTest, body
from tests.component.gateway_worker import CAPABILITIES, FakeWorker
from tests.component.test_gateway_keys import make_book
from tests.component.test_gateway_sdk import check
from tests.harness import eventually

CHAT = "/v1/chat/completions"


def lines(bodies: Sequence[Any], url: str = CHAT) -> bytes:
    """An input file."""
    rows = [
        {"custom_id": f"c{number}", "method": "POST", "url": url, "body": each} for number, each in enumerate(bodies)
    ]
    return "\n".join(map(json.dumps, rows)).encode()


@asynccontextmanager
async def sdk(gateway: GatewayUnderTest, key: str = "none") -> AsyncGenerator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0) as client:
        yield client


async def begin(client: openai.AsyncOpenAI, content: bytes, **options: Any) -> Batch:
    file = await client.files.create(file=("in.jsonl", content), purpose="batch")
    asked: dict[str, Any] = {"endpoint": CHAT, "completion_window": "24h", **options}
    return await client.batches.create(input_file_id=file.id, **asked)


async def ended(client: openai.AsyncOpenAI, batch: Batch) -> Batch:
    found: list[Batch] = []

    async def over() -> bool:
        found.append(await client.batches.retrieve(batch.id))
        return found[-1].status in ("completed", "failed", "expired", "cancelled")

    await eventually(over, within=60)
    return found[-1]


async def rows(client: openai.AsyncOpenAI, file_id: str | None) -> list[Any]:
    if file_id is None:
        return []
    return [json.loads(line) for line in (await client.files.content(file_id)).text.splitlines()]


async def test_files_by_the_official_client() -> None:
    async with GatewayUnderTest() as gateway, sdk(gateway) as client:
        first = await client.files.with_raw_response.create(file=("a.jsonl", b"{}\n" * 5), purpose="batch")
        one = check(FileObject, first.content)
        two = await client.files.create(
            file=("ü.txt", b""), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
        )
        assert (one.bytes, one.filename, one.purpose, one.expires_at) == (15, "a.jsonl", "batch", None)
        assert two.expires_at == two.created_at + 3600
        assert [each.id async for each in client.files.list(limit=1)] == [two.id, one.id]
        assert [each.id async for each in client.files.list(order="asc")] == [one.id, two.id]
        assert [each.id async for each in client.files.list(purpose="batch")] == [one.id]
        assert (await client.files.content(one.id)).content == b"{}\n" * 5
        assert (await client.files.content(two.id)).content == b""
        assert (await client.files.retrieve(one.id)).id == one.id
        assert (await client.files.delete(one.id)).deleted
        for call in (client.files.retrieve, client.files.content, client.files.delete):
            with pytest.raises(openai.NotFoundError):
                await call(one.id)
        left = list(Path(gateway.config.files).iterdir())
        assert [each.name for each in left] == [two.id]
        assert Path(gateway.config.files).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("fields", "status", "named"),
    [
        ({"data": {"purpose": "batch"}}, 400, "file"),
        ({"data": {"purpose": "x"}}, 400, "purpose"),
        ({"data": {"purpose": "batch", "what": "1"}}, 400, "what"),
        ({"data": {"purpose": "batch", "expires_after[seconds]": "3600"}}, 400, "expires_after[anchor]"),
        (
            {"data": {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "9"}},
            400,
            "expires_after[seconds]",
        ),
    ],
)
async def test_what_is_wrong_with_an_upload_is_named(fields: dict[str, Any], status: int, named: str) -> None:
    files = {"file": ("a", b"x")} if named != "file" else {"other": (None, "x")}
    async with GatewayUnderTest() as gateway:
        response = await gateway.http.post("/v1/files", files=files, **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (status, named if named != "file" else "other")


async def test_the_size_of_an_upload_has_a_limit_of_its_own() -> None:
    async with GatewayUnderTest(max_body_bytes=4096, max_file_bytes=200_000) as gateway:

        async def upload(size: int) -> httpx.Response:
            return await gateway.http.post("/v1/files", files={"file": ("a", b"x" * size)}, data={"purpose": "batch"})

        assert (await upload(200_000)).status_code == 200
        for size in (200_001, 300_000):
            response = await upload(size)
            assert response.status_code == 413
            assert response.json()["error"]["code"] == "payload_too_large"
        assert (await gateway.http.post("/v1/files", json={})).status_code == 415
        assert len(list(Path(gateway.config.files).iterdir())) == 1


async def test_a_batch_from_its_input_to_its_output() -> None:
    worker = FakeWorker("a", pause=0)
    bodies = [body(max_tokens=number % 3 + 1, seed=number) for number in range(40)]
    bodies[7] = body(temperature=9)
    bodies[9] = body(model="unknown")
    async with worker, GatewayUnderTest(batch_concurrency=4) as gateway, sdk(gateway) as client:
        await gateway.add(worker)
        batch = await begin(client, lines(bodies), metadata={"k": "v"})
        assert (batch.status, batch.metadata) == ("validating", {"k": "v"})
        done = await ended(client, batch)
        raw = await client.batches.with_raw_response.retrieve(batch.id)
        answers, failures = await rows(client, done.output_file_id), await rows(client, done.error_file_id)
        alone = await gateway.chat(**bodies[3])
        listed = [each.id async for each in client.batches.list(limit=1)]
        file = await client.files.retrieve(done.output_file_id or "")
        named = [{"type": "item_reference", "id": f"{1:09d}"}]  # as its lines are called in the store
        other = await gateway.http.post("/v1/responses", json={"model": "m", "input": named})
    assert (other.status_code, other.json()["error"]["param"]) == (404, "input[0].id")
    check(Batch, raw.content)
    assert done.status == "completed", done
    assert done.request_counts is not None
    assert done.request_counts.model_dump() == {"completed": 38, "failed": 2, "total": 40}
    assert None not in (done.completed_at, done.finalizing_at, done.in_progress_at)
    assert [each["custom_id"] for each in answers] == [f"c{n}" for n in range(40) if n not in (7, 9)]
    assert [(each["custom_id"], each["response"]["status_code"]) for each in failures] == [("c7", 400), ("c9", 404)]
    assert failures[0]["response"]["body"]["error"]["param"] == "temperature"
    assert all(each["error"] is None and each["response"]["request_id"] for each in answers)
    told = answers[3]["response"]["body"]
    assert told["choices"] == alone.json()["choices"]
    assert listed == [batch.id]
    assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")


class Everything(FakeWorker):
    """Embeds and classifies too."""

    def __init__(self) -> None:
        more = (pb.CAPABILITY_EMBED, pb.CAPABILITY_CLASSIFY)
        super().__init__("a", pause=0, capabilities=(*CAPABILITIES, *more))

    async def Embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
        return pb.EmbedResponse(embeddings=[pb.Embedding(values=[1.0])], prompt_tokens=4)

    async def Classify(self, request: pb.ClassifyRequest, context: Any) -> pb.ClassifyResponse:
        scores = pb.ClassScores(scores=[0.9, 0.1])
        return pb.ClassifyResponse(results=[scores], labels=["hate", "ok"], prompt_tokens=4, exclusive=True)


@pytest.mark.parametrize(
    ("endpoint", "asked", "tokens"),
    [
        (CHAT, body(max_tokens=2), (5, 2)),
        ("/v1/completions", {"model": "m", "prompt": "hi", "max_tokens": 2, "seed": 7}, (5, 2)),
        ("/v1/embeddings", {"model": "m", "input": "hi"}, (4, 0)),
        ("/v1/responses", {"model": "m", "input": "hi", "max_output_tokens": 16, "store": False}, (5, 16)),
        ("/v1/moderations", {"model": "m", "input": "hi"}, (0, 0)),
    ],
)
async def test_every_endpoint_is_answered_as_it_is_alone_and_its_tokens_are_summed(
    endpoint: str, asked: dict[str, Any], tokens: tuple[int, int]
) -> None:
    async with Everything() as worker, GatewayUnderTest() as gateway, sdk(gateway) as client:
        worker.cached = 3
        await gateway.add(worker)
        wrong = {**asked, "model": "unknown"}
        batch = await ended(client, await begin(client, lines([asked, asked, wrong], endpoint), endpoint=endpoint))
        answers = await rows(client, batch.output_file_id)
        alone = (await gateway.http.post(endpoint, json=asked)).json()
        outcomes = [
            gateway.metric("mesh_gateway_batch_requests_total", endpoint=endpoint, outcome=each)
            for each in ("done", "failed")
        ]
        assert gateway.metric("mesh_gateway_batches_total", endpoint=endpoint, status="completed") == 1
    assert outcomes == [2, 1]
    own = ("data", "choices", "results", "object")
    for answer in answers:
        told = answer["response"]["body"]
        assert {name: told.get(name) for name in own} == {name: alone.get(name) for name in own}
    assert len(answers) == 2
    usage = batch.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (2 * tokens[0], 2 * tokens[1])
    assert usage.total_tokens == 2 * sum(tokens)
    assert usage.input_tokens_details.cached_tokens == (6 if tokens[1] else 0)


BAD = [
    b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m"}}',
    b"{",
    b'{"custom_id": "a", "method": "GET", "url": "/v1/completions", "body": {"model": "m"}}',
    b"",
    b'{"custom_id": "b", "method": "POST", "url": "/v1/chat/completions", "body": {}}',
    b'{"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "stream": true}}',
    b'{"custom_id": "d", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m"}, "x": 1}',
]


async def test_bad_input_is_told_line_by_line() -> None:
    async with GatewayUnderTest() as gateway, sdk(gateway) as client:
        failed = await ended(client, await begin(client, b"\n".join(BAD)))
        empty = await ended(client, await begin(client, b"\n\n"))
    assert failed.status == empty.status == "failed"
    assert failed.errors is not None
    assert [(each.line, each.code, each.param) for each in failed.errors.data or ()] == [
        (2, "invalid_json_line", None),
        (3, "duplicate_custom_id", "custom_id"),
        (3, "invalid_method", "method"),
        (3, "invalid_url", "url"),
        (5, "invalid_request", None),
        (6, "invalid_request", "body.stream"),
        (7, "invalid_request", None),
    ]
    assert empty.errors is not None
    assert [each.code for each in empty.errors.data or ()] == ["empty_file"]


async def test_requests_of_batches_go_behind_others() -> None:
    worker = FakeWorker("a", slots=1, pause=0.02)
    async with worker, GatewayUnderTest(worker_ahead=0) as gateway, sdk(gateway) as client:
        await gateway.add(worker)
        batch = await begin(client, lines([body(seed=number, priority=-5) for number in range(6)]))
        await eventually(lambda: gateway.waiting >= 4, within=30)
        await gateway.chat(seed=99)
        assert (await ended(client, batch)).status == "completed"
    assert [start.request.sampling.seed for start in worker.starts].index(99) <= 2


async def test_requests_of_batches_wait_for_room() -> None:
    worker = FakeWorker("a", pause=0)
    worker.refusal = MeshError(ErrorKind.OVERLOADED, "no room", retry_after=0.05)
    async with worker, GatewayUnderTest(queue_timeout=0.05) as gateway, sdk(gateway) as client:
        await gateway.add(worker)
        batch = await begin(client, lines([body(), body()]))
        await eventually(lambda: len(worker.starts) > 4, within=30)
        worker.refusal = None
        done = await ended(client, batch)
    assert done.request_counts is not None
    assert (done.status, done.request_counts.completed) == ("completed", 2)


async def test_a_batch_that_has_to_wait_does_not_hold_up_another_one() -> None:
    worker, away = FakeWorker("a", pause=0), FakeWorker("b", models=("away",), pause=0)
    away.refusal = MeshError(ErrorKind.OVERLOADED, "no room", retry_after=30)
    limits: dict[str, Any] = {"batch_concurrency": 2, "queue_timeout": 0.05}
    async with worker, away, GatewayUnderTest(**limits) as gateway, sdk(gateway) as client:
        await gateway.add(worker, away)
        await begin(client, lines([body(model="away")] * 5))
        await eventually(lambda: len(away.starts) >= 2, within=30)
        done = await ended(client, await begin(client, lines([body(), body()])))
    assert done.request_counts is not None
    assert (done.status, done.request_counts.completed) == ("completed", 2)


async def test_a_batch_is_cancelled() -> None:
    worker = FakeWorker("a", pause=0)
    async with worker, GatewayUnderTest(batch_concurrency=2) as gateway, sdk(gateway) as client:
        await gateway.add(worker)
        batch = await begin(client, lines([body(max_tokens=2), *[body(max_tokens=100_000)] * 5]))

        async def first() -> bool:
            counts = (await client.batches.retrieve(batch.id)).request_counts
            return counts is not None and counts.completed == 1

        await eventually(first, within=30)
        with pytest.raises(openai.BadRequestError, match=batch.id):  # it is still being read
            await client.files.delete(batch.input_file_id)
        assert (await client.batches.cancel(batch.id)).status == "cancelling"
        done = await ended(client, batch)
        assert (done.status, done.error_file_id) == ("cancelled", None)
        assert [each["custom_id"] for each in await rows(client, done.output_file_id)] == ["c0"]
        await eventually(lambda: not worker.rows, within=30)  # the worker was told
        with pytest.raises(openai.BadRequestError):
            await client.batches.cancel(batch.id)
        assert (await client.files.delete(batch.input_file_id)).deleted


async def test_a_batch_expires() -> None:
    worker = FakeWorker("a", pause=0)
    async with worker, GatewayUnderTest(batch_concurrency=2) as gateway, sdk(gateway) as client:
        await gateway.add(worker)
        bodies = [body(max_tokens=100_000)] * 3
        done = await ended(client, await begin(client, lines(bodies), completion_window="1s"))
        assert (done.status, done.expired_at is not None, done.output_file_id) == ("expired", True, None)
        failures = await rows(client, done.error_file_id)
        assert [(each["custom_id"], each["error"]["code"]) for each in failures] == [
            (f"c{number}", "batch_expired") for number in range(3)
        ]


async def test_another_gateway_goes_on_and_no_line_is_lost_or_doubled(tmp_path: Path) -> None:
    shared: dict[str, Any] = {"store": f"{tmp_path}/s.db", "files": f"{tmp_path}/f", "batch_takeover": 1.0}
    count = 60
    async with FakeWorker("a", pause=0.002) as worker:
        async with GatewayUnderTest(batch_concurrency=3, **shared) as first, sdk(first) as client:
            await first.add(worker)
            batch = await begin(client, lines([body(seed=number, max_tokens=4) for number in range(count)]))

            async def some() -> bool:
                counts = (await client.batches.retrieve(batch.id)).request_counts
                return counts is not None and 5 <= counts.completed < count

            await eventually(some, within=30)
        asked = len(worker.starts)
        async with GatewayUnderTest(batch_concurrency=3, **shared) as second, sdk(second) as client:
            await second.add(worker)
            done = await ended(client, batch)
            answers = await rows(client, done.output_file_id)
    assert done.status == "completed"
    assert [each["custom_id"] for each in answers] == [f"c{number}" for number in range(count)]
    assert asked < count  # otherwise there was nothing left to go on with
    seeds = Counter(start.request.sampling.seed for start in worker.starts)
    assert set(seeds) == set(range(count))
    assert seeds.total() <= count + 3  # those that were under way are asked for again


async def test_of_several_gateways_one_works_on_a_batch(tmp_path: Path) -> None:
    shared: dict[str, Any] = {"store": f"{tmp_path}/s.db", "files": f"{tmp_path}/f", "batch_takeover": 1.0}
    count = 50
    async with (
        FakeWorker("a", pause=0.002) as worker,
        GatewayUnderTest(**shared) as one,
        GatewayUnderTest(**shared) as two,
        sdk(one) as client,
        sdk(two) as other,
    ):
        await one.add(worker)
        await two.add(worker)
        batch = await begin(client, lines([body(seed=number, max_tokens=4) for number in range(count)]))
        done = await ended(other, batch)
        answers = await rows(other, done.output_file_id)
    assert len(answers) == count
    seeds = Counter(start.request.sampling.seed for start in worker.starts)
    assert seeds.total() == count


async def test_what_belongs_to_another_key_is_not_there() -> None:
    book, mine, headers = make_book(models=("m",))
    stranger_key, their_text = new_key("stranger")
    book.on_key(stranger_key.id, stranger_key)
    async with FakeWorker("a", pause=0) as worker, GatewayUnderTest(book=book) as gateway:
        await gateway.add(worker)
        async with sdk(gateway, headers["authorization"].removeprefix("Bearer ")) as client:
            batch = await begin(client, lines([body(), body(model="x")]))
            done = await ended(client, batch)
            refused = await rows(client, done.error_file_id)
            file_id = done.output_file_id or ""
            async with sdk(gateway, their_text) as stranger:
                for call in (
                    stranger.files.retrieve(file_id),
                    stranger.files.content(file_id),
                    stranger.files.delete(file_id),
                    stranger.batches.retrieve(batch.id),
                    stranger.batches.cancel(batch.id),
                ):
                    with pytest.raises(openai.NotFoundError):
                        await call
                assert [each async for each in stranger.files.list()] == []
                assert [each async for each in stranger.batches.list()] == []
                with pytest.raises(openai.BadRequestError):
                    await stranger.batches.create(
                        input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h"
                    )
    # The lines are those of the key that made the batch.
    assert [each["response"]["status_code"] for each in refused] == [403]
    assert {start.request.tenant for start in worker.starts} == {mine.id}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"endpoint": "/v1/models"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "31d"}, "completion_window"),
        ({"input_file_id": "file-x"}, "input_file_id"),
        ({"metadata": {"k": "v" * 600}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
        ({"what": 1}, "what"),
    ],
)
async def test_what_is_wrong_with_a_batch_is_named(fields: dict[str, Any], named: str) -> None:
    asked = {"input_file_id": "file-x", "endpoint": CHAT, "completion_window": "24h", **fields}
    async with GatewayUnderTest() as gateway:
        response = await gateway.http.post("/v1/batches", json=asked)
    assert (response.status_code, response.json()["error"]["param"]) == (400, named)


async def test_batches_without_workers_do_not_hold_up_one_that_has_some() -> None:
    limits: dict[str, Any] = {"batch_concurrency": 2, "batch_takeover": 0.5}
    async with FakeWorker("a", pause=0) as worker, GatewayUnderTest(**limits) as gateway, sdk(gateway) as client:
        await gateway.add(worker)
        await leave("away", gateway)
        stuck = [await begin(client, lines([body(model="away")] * 3)) for _ in range(AT_ONCE + 1)]
        done = await ended(client, await begin(client, lines([body(), body()])))
        assert done.request_counts is not None
        assert (done.status, done.request_counts.completed) == ("completed", 2)
        async with FakeWorker("b", models=("away",), pause=0) as back:
            await gateway.add(back)
            for batch in stuck:
                assert (await ended(client, batch)).status == "completed"
            assert len(back.starts) == 3 * len(stuck), "no line was lost or doubled by giving way"


async def leave(model: str, gateway: GatewayUnderTest) -> None:
    """A worker of the model was here, and died."""
    async with FakeWorker(f"one of {model}", models=(model,)) as worker:
        await gateway.add(worker)
    await eventually(lambda: not gateway.session(worker.worker_id))
