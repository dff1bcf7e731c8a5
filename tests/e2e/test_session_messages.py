"""What goes over the wire grows with the engine's steps, not with the tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.e2e.answers import ask, chat
from tests.harness import Mesh

STREAMS = 16
TOKENS = 60


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    args = ("--engine", "scripted", "--script-step-ms", "10", "--script-tokens", str(TOKENS))
    with Mesh(tmp_path_factory.mktemp("messages"), workers=1, worker_args=args) as mesh:
        yield mesh


async def test_one_message_per_step_whatever_the_number_of_streams(mesh: Mesh) -> None:
    worker = mesh.workers[0]
    before, received = worker.stats(), mesh.gateway.metric("mesh_gateway_session_messages_total")
    body = chat(mesh.model)
    answers = await asyncio.gather(*(ask(mesh.gateway.url, body) for _ in range(STREAMS)))
    after = worker.stats()
    assert all(answer.complete for answer in answers)
    steps = after.engine["steps"] - before.engine["steps"]
    tokens = after.engine["output_tokens"] - before.engine["output_tokens"]
    sent = after.session_messages - before.session_messages
    assert tokens >= STREAMS * TOKENS
    # A step is one message at most; when the gateway reads late, several steps are.
    assert 0 < sent <= steps
    assert steps < tokens / 4, "the streams did not run together, so this shows nothing"
    assert mesh.gateway.metric("mesh_gateway_session_messages_total") - received == sent
