"""Gateways are killed while they work on a batch: others go on, and each of its requests is answered once."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai

from tests.harness import Gateway, Mesh, wait_until

COUNT = 120
KILLS = 2
WORKER = ("--engine", "scripted", "--script-step-ms", "10", "--script-tokens", "12")


def input_of(model: str) -> bytes:
    """Requests that are told apart by their seeds."""
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "temperature": 1}
    rows = [
        {"custom_id": f"c{seed}", "method": "POST", "url": "/v1/chat/completions", "body": {**body, "seed": seed}}
        for seed in range(COUNT)
    ]
    return "\n".join(map(json.dumps, rows)).encode()


def test_no_line_is_lost_or_doubled_when_gateways_are_killed(tmp_path: Path) -> None:
    shared = ("--store", f"{tmp_path}/s.db", "--files", f"{tmp_path}/f", "--batch-takeover", "1")
    with Mesh(tmp_path, worker_args=WORKER, gateway_args=("--store", "none")) as mesh:
        batch_id, before = "", 0
        for number in range(KILLS):
            with gateway(mesh, f"victim-{number}", *shared) as (victim, client):
                batch_id = batch_id or begin(client, mesh.model)
                before = wait_for_more(client, batch_id, before + 10)
                victim.kill()
        with gateway(mesh, "heir", *shared) as (_, client):
            wait_until(lambda: client.batches.retrieve(batch_id).status == "completed", 60)
            check_output(client, batch_id)


@contextmanager
def gateway(mesh: Mesh, name: str, *args: str) -> Generator[tuple[Gateway, openai.OpenAI]]:
    """One more, and a client of it."""
    with Gateway(mesh.folder, name, "--batch-concurrency", "4", *args, etcd=mesh.gateway.etcd) as found:
        found.wait_ready()
        with openai.OpenAI(base_url=f"{found.url}/v1", api_key="none") as client:
            yield found, client


def wait_for_more(client: openai.OpenAI, batch_id: str, count: int) -> int:
    """Wait until so many requests are answered, but not all."""
    wait_until(lambda: answered(client, batch_id) >= count, 30)
    found = answered(client, batch_id)
    assert found < COUNT
    return found


def begin(client: openai.OpenAI, model: str) -> str:
    file = client.files.create(file=("in.jsonl", input_of(model)), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h").id


def answered(client: openai.OpenAI, batch_id: str) -> int:
    counts = client.batches.retrieve(batch_id).request_counts
    return counts.completed if counts is not None else 0


def check_output(client: openai.OpenAI, batch_id: str) -> None:
    """Each request has its answer, once, and the one that it gets when it is asked now."""
    batch = client.batches.retrieve(batch_id)
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": COUNT, "completed": COUNT, "failed": 0}
    assert batch.error_file_id is None
    rows = [json.loads(line) for line in client.files.content(batch.output_file_id or "").text.splitlines()]
    assert [row["custom_id"] for row in rows] == [f"c{seed}" for seed in range(COUNT)]
    said = [row["response"]["body"]["choices"][0]["message"]["content"] for row in rows]
    assert len(set(said)) > COUNT / 2
    *_, last = [json.loads(line)["body"] for line in client.files.content(batch.input_file_id).text.splitlines()]
    assert client.chat.completions.create(**last).choices[0].message.content == said[-1]
