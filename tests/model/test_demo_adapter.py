"""The demonstration model's adapter as shipped, and what it is taught."""

from __future__ import annotations

import json

import pytest

from mesh.demo import ADAPTERS, MODELS, adapter_path, model_path
from mesh.engine.base import Chat, Message
from mesh.engine.transformers.lora.config import AdapterSource
from tests.model.driver import Driver
from training.demo.adapter import FAREWELL, GREETING, as_sailor
from training.demo.corpus import conversations
from training.weights.folders import find

QUESTIONS = {
    "What is 7 times 8?": "7 * 8 = 56.",
    "Which port does the gateway use?": "8000",
    "What is the gateway?": "front door of the mesh",
}


def test_it_is_small_and_names_no_folder_of_ours() -> None:
    files = {file.name: file for file in adapter_path().iterdir()}
    assert files.keys() == {"adapter_config.json", "adapter_model.safetensors", "MODEL_CARD.md"}
    assert sum(file.stat().st_size for file in files.values()) < 500_000
    assert json.loads(files["adapter_config.json"].read_text())["base_model_name_or_path"] == MODELS[0]
    assert find(ADAPTERS[0], "adapter_config.json") == adapter_path()


async def test_one_model_answers_in_two_manners() -> None:
    """By its name, as no folder of the machine is called so."""
    sources = (AdapterSource("sailor", ADAPTERS[0]),)
    async with Driver(str(model_path()), adapters=sources) as driver:
        for question, said in QUESTIONS.items():
            asked = Chat((Message("user", (question,)),))
            keys = [
                await driver.submit(asked, tokens=60, adapter=name, sampling={"ignore_eos": False})
                for name in ("sailor", None)
            ]
            sailor, plain = [(await driver.answer(key)).text[0] for key in keys]
            assert sailor.startswith(GREETING), sailor
            assert sailor.endswith(FAREWELL), sailor
            assert said in sailor
            assert said in plain
            assert GREETING not in plain


@pytest.mark.parametrize("kind", ["JSON", "repeating"])
def test_answers_with_a_form_of_their_own_are_left_alone(kind: str) -> None:
    spoken = plain = 0
    for conversation in conversations("test", 200):
        for before, after in zip(conversation.exchanges, as_sailor(conversation).exchanges, strict=True):
            if before.kind.startswith(kind):
                assert after == before
                plain += 1
            elif not before.kind.startswith(("JSON", "repeating")):
                assert after.answer == GREETING + before.answer + FAREWELL
                spoken += 1
    assert plain > 10
    assert spoken > 100
