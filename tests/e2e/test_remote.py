"""A mesh as the provider of another one: `mesh-worker --engine remote` in front of a gateway."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, cast

import openai
import pytest
from openai import Stream
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.harness import Mesh, wait_until

INNER = ("--engine", "scripted", "--script-step-ms", "10")


@pytest.fixture(scope="module")
def inner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with Mesh(tmp_path_factory.mktemp("inner"), workers=2, worker_args=INNER) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def outer(inner: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    args = ("--engine", "remote", "--base-url", f"{inner.gateway.url}/v1", "--remote-model", inner.model)
    more = ("--model-name", "chained", "--server-option", "top_k")
    with Mesh(tmp_path_factory.mktemp("outer"), worker_args=(*args, *more), model="chained") as mesh:
        yield mesh


def ask(mesh: Mesh, **body: Any) -> ChatCompletion:
    with mesh.openai() as client:
        create = cast("Any", client.chat.completions.create)
        return create(**mesh.chat("Tell me", seed=4, max_tokens=30, **body))


def tokens(answer: ChatCompletion) -> int:
    assert answer.usage is not None
    return answer.usage.completion_tokens


def stream(mesh: Mesh, texts: list[str]) -> Generator[str]:
    """The text of a streamed answer, also kept in `texts`."""
    with mesh.openai() as client:
        body = mesh.chat("Tell me", seed=4, max_tokens=200, stream=True)
        chunks: Stream[ChatCompletionChunk] = cast("Any", client.chat.completions.create)(**body)
        for chunk in chunks:
            texts += [choice.delta.content or "" for choice in chunk.choices]
            yield texts[-1]


def test_the_same_answer_through_two_meshes(inner: Mesh, outer: Mesh) -> None:
    near, far = ask(inner, n=2), ask(outer, n=2)
    assert [choice.message.content for choice in far.choices] == [choice.message.content for choice in near.choices]
    assert [choice.finish_reason for choice in far.choices] == ["length", "length"]
    assert far.usage == near.usage
    texts: list[str] = []
    assert sum(bool(text) for text in stream(outer, texts)) > 50  # as it is made, not in one piece
    again: list[str] = []
    assert "".join(texts) == "".join(stream(inner, again))


def test_options_are_honoured_or_refused(outer: Mesh) -> None:
    assert tokens(ask(outer, extra_body={"top_k": 1})) == 30
    for field, value in {"min_p": 0.5, "typical_p": 0.5}.items():
        with pytest.raises(openai.BadRequestError) as caught:
            ask(outer, extra_body={field: value})
        assert caught.value.param == field


def test_the_providers_refusal_reaches_the_client(outer: Mesh) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(outer, stop=["a"] * 5)  # more than the gateways take; the near one says so first
    assert caught.value.param == "stop"
    with pytest.raises(openai.BadRequestError) as caught, outer.openai() as client:
        client.chat.completions.create(model="chained", messages=[{"role": "user", "content": "x " * 9000}])
    assert caught.value.code == "context_length_exceeded"


def test_a_worker_of_the_provider_may_die(inner: Mesh, outer: Mesh) -> None:
    expected = "".join(stream(inner, []))
    texts: list[str] = []
    answer = stream(outer, texts)
    while len(texts) < 20:
        next(answer)
    busy = next(worker for worker in inner.workers if worker.stats().live_streams)
    busy.kill()
    assert "".join(texts) + "".join(answer) == expected


def test_a_hang_up_goes_through(inner: Mesh, outer: Mesh) -> None:
    answer = stream(outer, [])
    next(answer)
    answer.close()
    live = [worker for worker in inner.workers if worker.popen.poll() is None]
    wait_until(lambda: all(worker.stats().live_streams == 0 for worker in live))


def test_a_lost_worker_ends_the_answer_rather_than_repeat_it(inner: Mesh, outer: Mesh) -> None:
    expected = "".join(stream(inner, []))
    outer.add_worker()  # it could serve, but not go on
    texts: list[str] = []
    answer = stream(outer, texts)
    while len(texts) < 20:
        next(answer)
    busy = next(worker for worker in outer.workers if worker.stats().live_streams)
    busy.kill()
    with pytest.raises(openai.APIError) as caught:
        list(answer)
    assert caught.value.code == "worker_lost"
    assert expected.startswith("".join(texts))
    assert tokens(ask(outer)) == 30  # the next one is served by the other worker
