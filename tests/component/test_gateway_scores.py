"""/v1/score and /v1/rerank: cosines of embeddings, in the shapes of vLLM and of Jina."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from mesh.v1 import inference_pb2 as pb
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.gateway_worker import FakeWorker

# Of length 1, as the gateway asks for them.
VECTORS = {"up": [0.0, 1.0], "right": [1.0, 0.0], "down": [0.0, -1.0], "between": [0.6, 0.8]}


class Embedding(FakeWorker):
    """Embeds the words above."""

    def __init__(self) -> None:
        super().__init__("w", capabilities=(pb.CAPABILITY_EMBED,))
        self.asked: list[pb.EmbedRequest] = []

    async def Embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
        self.asked.append(request)
        vectors = [pb.Embedding(values=VECTORS[each.text]) for each in request.inputs]
        return pb.EmbedResponse(embeddings=vectors, prompt_tokens=len(vectors))


async def sent(path: str, **fields: Any) -> tuple[httpx.Response, Embedding]:
    async with Embedding() as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        return await gateway.http.post(path, json={"model": "m", **fields}), worker


@pytest.mark.parametrize(
    ("first", "second", "scores"),
    [
        ("up", ["up", "right", "down", "between"], [1, 0, -1, 0.8]),
        (["up", "right"], ["between", "between"], [0.8, 0.6]),
        ("up", "down", [-1]),
    ],
)
async def test_one_text_with_each_or_pair_by_pair(first: Any, second: Any, scores: list[float]) -> None:
    response, worker = await sent("/v1/score", text_1=first, text_2=second, truncate=True)
    found = response.json()
    assert [(each["object"], each["index"]) for each in found["data"]] == [("score", n) for n in range(len(scores))]
    assert [each["score"] for each in found["data"]] == pytest.approx(scores)
    (request,) = worker.asked
    assert (request.normalize, request.truncate) == (True, True)
    assert found["usage"] == {"prompt_tokens": len(request.inputs), "total_tokens": len(request.inputs)}
    assert (found["object"], found["model"], found["id"][:6]) == ("list", "m", "score-")


async def test_documents_in_the_order_of_their_nearness() -> None:
    documents = ["down", "between", "up", "right"]
    response, _ = await sent("/v1/rerank", query="up", documents=documents, top_n=3)
    found = response.json()["results"]
    assert [(each["index"], each["document"]["text"]) for each in found] == [(2, "up"), (1, "between"), (3, "right")]
    assert [each["relevance_score"] for each in found] == pytest.approx([1, 0.8, 0])
    bare, _ = await sent("/v1/rerank", query="up", documents=documents, return_documents=False)
    assert [sorted(each) for each in bare.json()["results"]] == [["index", "relevance_score"]] * 4


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/score", {"text_1": "a"}, "text_2"),
        ("/v1/score", {"text_1": ["a", "b"], "text_2": ["a"]}, "text_1"),
        ("/v1/score", {"text_1": "a", "text_2": []}, "text_2"),
        ("/v1/score", {"text_1": "", "text_2": "a"}, "text_1"),
        ("/v1/score", {"text_1": "a", "text_2": ["a"] * 2048}, "text_2"),
        ("/v1/rerank", {"query": "a", "documents": []}, "documents"),
        ("/v1/rerank", {"query": "a", "documents": ["a", ""]}, "documents"),
        ("/v1/rerank", {"query": "a", "documents": ["a"], "top_n": 0}, "top_n"),
        ("/v1/rerank", {"query": "a", "documents": ["a"], "instruct": "x"}, "instruct"),
    ],
)
async def test_what_cannot_be_scored_is_refused(path: str, fields: dict[str, Any], param: str) -> None:
    response, worker = await sent(path, **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert not worker.asked


async def test_a_model_without_embeddings_is_refused() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        body = {"model": "m", "query": "a", "documents": ["b"]}
        response = await gateway.http.post("/v1/rerank", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "unsupported")
