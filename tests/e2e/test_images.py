"""Images through the real commands: from the OpenAI SDK to a model that sees, moved to another worker in mid-answer."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, cast

import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.harness import Mesh
from tests.model import tiny_vision

MODEL = "eye"
WIDE, OTHER = tiny_vision.png(32, 16, 2), tiny_vision.png(32, 16, 3)

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Two workers of a model that sees; the second one, in the gateway's zone, gets the requests."""
    path, _ = tiny_vision.save(tmp_path_factory.mktemp("eye"), "Qwen2VL")
    args = ("--model-path", path, "--model-name", MODEL, "--threads", "1")
    folder = tmp_path_factory.mktemp("images")
    with Mesh(folder, workers=0, worker_args=args, gateway_args=("--zone", "front"), model=MODEL) as running:
        for zone in ("back", "front"):
            running.start_worker("--zone", zone, name=zone)
        for worker in running.workers:
            worker.wait_ready(within=90)
        running.wait_listed(2)
        yield running


def question(picture: bytes) -> dict[str, Any]:
    """A request with an image."""
    url = "data:image/png;base64," + base64.b64encode(picture).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is it?"}]
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": parts}],
        "temperature": 0,
        "max_tokens": 300,
        "extra_body": {"ignore_eos": True},
    }


def answer(client: openai.OpenAI, picture: bytes) -> ChatCompletion:
    """The answer in one piece."""
    return cast("ChatCompletion", client.chat.completions.create(**question(picture)))


def test_the_openai_sdk_shows_an_image(mesh: Mesh) -> None:
    with mesh.openai() as client:
        answers = [answer(client, picture) for picture in (WIDE, OTHER, WIDE)]
        texts = [each.choices[0].message.content for each in answers]
        assert texts[0] == texts[2]
        assert texts[0] != texts[1]
        usage = answers[0].usage
        assert usage is not None
        inputs = tiny_vision.reference_inputs(tiny_vision.RECIPES["Qwen2VL"], tiny_vision.chat([WIDE, "What is it?"]))
        assert usage.prompt_tokens == inputs["input_ids"].shape[1]
        with pytest.raises(openai.BadRequestError, match="not a whole PNG"):
            answer(client, WIDE[: len(WIDE) // 2])


def test_another_worker_sees_the_same(mesh: Mesh) -> None:
    with mesh.openai() as client:
        whole = answer(client, WIDE).choices[0].message.content
        stream = client.chat.completions.create(**question(WIDE), stream=True)
        text, killed = "", False
        for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            if text and not killed:
                killed = True
                mesh.workers[-1].kill()
        assert killed
        assert text == whole
