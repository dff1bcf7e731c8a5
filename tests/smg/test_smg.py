"""smg in front of a worker that also speaks vLLM's gRPC: the same answers as through our own gateway, at the same time.

`make test-smg` installs smg into an environment of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Generator
from typing import Any

import httpx
import openai
import pytest

from tests.harness import MODEL, ROOT, Mesh, free_port, wait_until

SMG = ROOT / ".venv-smg" / "bin" / "smg"
pytestmark = pytest.mark.skipif(not SMG.exists(), reason="make test-smg installs it")

STORY = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Tell me a story about a fox."}]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Generator[Mesh]:
    args = ("--engine", "scripted", "--script-tokens", "40", "--also-speak", "vllm")
    with Mesh(tmp_path_factory.mktemp("mesh"), worker_args=args) as running:
        yield running


@pytest.fixture(scope="module")
def smg(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Generator[openai.OpenAI]:
    """A client of smg, whose worker is the mesh's."""
    port = free_port()
    log = tmp_path_factory.mktemp("smg") / "smg.log"
    command = [
        *(str(SMG), "launch", "--host", "127.0.0.1", "--port", str(port)),
        *("--worker-urls", f"grpc://{mesh.workers[0].address}", "--policy", "round_robin"),
        *("--worker-startup-check-interval", "1"),
        *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=_without_proxies())
    try:
        wait_until(lambda: _models(port) == [MODEL], within=60)
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client:
            yield client
    except BaseException as error:
        error.add_note(log.read_text(errors="replace")[-3000:])
        raise
    finally:
        process.kill()
        process.wait(10)


def _without_proxies() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


def _models(port: int) -> list[str]:
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/v1/models", timeout=5)
    except httpx.TransportError:
        return []
    return [model["id"] for model in answer.json()["data"]] if answer.is_success else []


@pytest.fixture(scope="module")
def ours(mesh: Mesh) -> Generator[openai.OpenAI]:
    """A client of our own gateway."""
    with mesh.openai() as client:
        yield client


def both(*clients: openai.OpenAI, **options: Any) -> tuple[Any, ...]:
    """The answers of both gateways to one request."""
    given: dict[str, Any] = {"model": MODEL, "messages": STORY, "temperature": 0.8, "seed": 7, **options}
    return tuple(asked(client, **given) for client in clients)


def asked(client: openai.OpenAI, **given: Any) -> Any:
    """An answer, or a stream if it was asked for; the SDK's types tell them apart by literals."""
    create: Any = client.chat.completions.create
    return create(**given)


def test_an_answer_reads_the_same_through_both(ours: openai.OpenAI, smg: openai.OpenAI) -> None:
    mine, theirs = both(ours, smg, max_tokens=12, logprobs=True, top_logprobs=2)
    assert len(mine.choices[0].message.content.split()) == 12
    assert theirs.choices[0].message.content == mine.choices[0].message.content
    assert theirs.choices[0].finish_reason == "length"
    assert (theirs.usage.prompt_tokens, theirs.usage.completion_tokens) == (mine.usage.prompt_tokens, 12)
    scored = [[item.logprob for item in answer.choices[0].logprobs.content] for answer in (mine, theirs)]
    assert scored[1] == pytest.approx(scored[0], abs=1e-5)


def test_a_stream_reads_the_same_through_both(ours: openai.OpenAI, smg: openai.OpenAI) -> None:
    streams = both(ours, smg, stream=True, n=2, max_tokens=20)
    texts: list[dict[int, str]] = []
    for stream in streams:
        found = {0: "", 1: ""}
        for chunk in stream:
            for choice in chunk.choices:
                found[choice.index] += choice.delta.content or ""
        texts.append(found)
    assert texts[1] == texts[0]
    assert texts[0][0] != texts[0][1]


def test_stop_strings_end_it_at_the_same_place(ours: openai.OpenAI, smg: openai.OpenAI) -> None:
    plain, _ = both(ours, smg)
    words = plain.choices[0].message.content.split()
    mine, theirs = both(ours, smg, stop=[f" {words[5]}"])
    assert theirs.choices[0].message.content == mine.choices[0].message.content
    assert mine.choices[0].message.content.split() == words[: words.index(words[5])]
    assert theirs.choices[0].finish_reason == "stop"


def test_a_schema_is_kept_to(ours: openai.OpenAI, smg: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}
    _, theirs = both(ours, smg, response_format=form)
    assert isinstance(json.loads(theirs.choices[0].message.content)["n"], int)


def test_a_client_that_hangs_up_leaves_no_row(mesh: Mesh, smg: openai.OpenAI) -> None:
    worker = mesh.workers[0]
    given: dict[str, Any] = {"model": MODEL, "messages": STORY, "max_tokens": 100_000, "stream": True}
    given["extra_body"] = {"ignore_eos": True}
    with asked(smg, **given) as stream:
        next(iter(stream))
        assert worker.stats().live_streams == 1
    wait_until(lambda: worker.stats().live_streams == 0, within=10)
