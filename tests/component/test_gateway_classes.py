"""Models with a head for classes: /v1/classify, /v1/moderations, and scores of pairs by cross-encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
import openai
import pytest

from gateway.openai.moderations import CATEGORIES, judged
from mesh.v1 import inference_pb2 as pb
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.gateway_worker import FakeWorker
from webui.trust.moderation import ModerationEndpoint, ModerationUnavailable

LABELS = ("safe", "hate", "self_harm")
SCORES = {"hi": (0.9, 0.06, 0.04), "grr": (0.2, 0.75, 0.05), "both": (0.4, 0.35, 0.25)}


class Classifying(FakeWorker):
    """Knows the texts above; of a pair the score says how long its second text is."""

    def __init__(self, labels: Sequence[str] = LABELS, models: Sequence[str] = ("m",)) -> None:
        super().__init__("w", capabilities=(pb.CAPABILITY_CLASSIFY,), models=models)
        self.labels = labels
        self.asked: list[pb.ClassifyRequest] = []

    async def Classify(self, request: pb.ClassifyRequest, context: Any) -> pb.ClassifyResponse:
        self.asked.append(request)
        results = [
            pb.ClassScores(
                scores=SCORES[each.text] if each.HasField("text") else [len(each.pair.second) / 10] * len(self.labels)
            )
            for each in request.inputs
        ]
        return pb.ClassifyResponse(results=results, labels=self.labels, prompt_tokens=7, exclusive=True)


async def sent(path: str, worker: Classifying | None = None, **fields: Any) -> tuple[httpx.Response, Classifying]:
    async with worker or Classifying() as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        return await gateway.http.post(path, json=fields), worker


@pytest.mark.parametrize("path", ["/v1/classify", "/classify"])
async def test_texts_get_their_likeliest_class_and_the_scores_of_all(path: str) -> None:
    response, worker = await sent(path, model="m", input=["hi", "grr"], truncate=True, use_activation=False)
    found = response.json()
    assert [(each["index"], each["label"], each["num_classes"]) for each in found["data"]] == [
        (0, "safe", 3),
        (1, "hate", 3),
    ]
    assert found["data"][1]["probs"] == pytest.approx(SCORES["grr"])
    assert (found["object"], found["model"], found["usage"]["total_tokens"]) == ("list", "m", 7)
    assert (worker.asked[0].truncate, worker.asked[0].raw) == (True, True)


async def test_moderations_by_the_official_client() -> None:
    async with Classifying() as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        client = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none")
        async with client:
            found = await client.moderations.create(input=["hi", "grr", "both"])
    assert found.model == "m"
    assert [each.flagged for each in found.results] == [False, True, True]
    calm, angry, both = found.results
    assert (angry.categories.hate, angry.categories.violence, angry.categories.self_harm) == (True, False, False)
    assert angry.category_scores.self_harm == pytest.approx(0.05)
    assert not any(both.categories.model_dump().values()), "no single category"
    assert calm.category_applied_input_types.hate == ["text"]
    assert calm.category_applied_input_types.violence == []
    assert not worker.asked[0].truncate


def test_the_threshold_is_for_each_category_and_harmless_classes_are_none() -> None:
    found = judged(["OK", "Violence/Graphic", "toxic"], [0.1, 0.3, 0.6], 0.3, exclusive=False)
    assert {name for name, flag in found.categories.items() if flag} == {"violence/graphic", "toxic"}
    assert set(found.categories) == {*CATEGORIES, "toxic"}
    assert not judged(["OK", "toxic"], [0.99, 0.01], 0.3, exclusive=True).flagged


async def test_parts_of_text_are_judged_together() -> None:
    SCORES["a\nb"] = (1, 0, 0)
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    response, worker = await sent("/v1/moderations", input=parts, model="m")
    assert [each.text for each in worker.asked[0].inputs] == ["a\nb"]
    assert len(response.json()["results"]) == 1


async def test_a_cross_encoder_judges_pairs() -> None:
    worker = Classifying(labels=("relevant",))
    response, _ = await sent("/v1/rerank", worker, model="m", query="q", documents=["a", "aaa", "aa"])
    assert [each["index"] for each in response.json()["results"]] == [1, 2, 0]
    assert response.json()["results"][0]["relevance_score"] == pytest.approx(0.3)
    worker = Classifying(labels=("relevant",))
    response, _ = await sent("/v1/score", worker, model="m", text_1=["x", "y"], text_2=["a", "aa"])
    assert [each["score"] for each in response.json()["data"]] == pytest.approx([0.1, 0.2])
    assert [(each.pair.first, each.pair.second) for each in worker.asked[0].inputs] == [("x", "a"), ("y", "aa")]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/classify", {"model": "m", "input": []}, "input"),
        ("/v1/classify", {"model": "m", "input": ["a", ""]}, "input"),
        ("/v1/classify", {"model": "m", "input": "a", "activation": True}, "activation"),
        ("/v1/moderations", {"model": "m", "input": ""}, "input"),
        (
            "/v1/moderations",
            {"model": "m", "input": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "input[0].type",
        ),
        ("/v1/score", {"model": "m", "text_1": "a", "text_2": "b"}, "model"),
        ("/v1/embeddings", {"model": "m", "input": "a"}, "model"),
        ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "a"}]}, "messages"),
    ],
)
async def test_what_cannot_be_classified_is_refused(path: str, fields: dict[str, Any], param: str) -> None:
    response, _ = await sent(path, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(("models", "said"), [((), "none is served"), (("m", "n"), "several classify: m, n")])
async def test_moderations_without_a_model_need_exactly_one(models: tuple[str, ...], said: str) -> None:
    async with Classifying(models=models) as worker, GatewayUnderTest() as gateway:
        if models:
            await gateway.add(worker)
        response = await gateway.http.post("/v1/moderations", json={"input": "hi"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "model")
    assert said in response.json()["error"]["message"]


async def test_the_arena_asks_its_own_gateway() -> None:
    async with Classifying() as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        endpoint = ModerationEndpoint(f"{gateway.url}/v1", "none", "m")
        assert await endpoint.flagged(["hi", "grr", "both"]) == ["", "hate", "flagged"]
        gone = ModerationEndpoint(f"{gateway.url}/v1", "none", "unknown")
        with pytest.raises(ModerationUnavailable, match="no answer"):
            await gone.flagged(["hi"])
        for each in (endpoint, gone):
            await each.close()
