"""LongChat's condensed rotary positions, against a Llama that is given divided positions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from mesh.engine.transformers.loading.loader import load
from mesh.engine.transformers.loading.options import LoadOptions
from mesh.engine.transformers.loading.rope import condense_rope
from tests.model import tiny
from tests.model.driver import Driver, prompt_of

RATIO = 4


def save(folder: Path, **config: Any) -> str:
    tiny.save(folder, "Llama")
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return str(folder)


def condensed_answer(prompt: list[int], tokens: int) -> list[int]:
    """Greedy, on the whole sequence each time: what FastChat's patch of the rotary embedding computes."""
    model: Callable[..., Any] = tiny.make_model("Llama")
    ids = list(prompt)
    for _ in range(tokens):
        positions = torch.arange(len(ids))[None] / RATIO
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids]), position_ids=positions).logits[0, -1].argmax()))
    return ids[len(prompt) :]


async def test_positions_are_divided_by_the_ratio_of_the_configuration(tmp_path: Path) -> None:
    path = save(tmp_path / "model", rope_condense_ratio=RATIO)
    prompt = prompt_of(30)
    async with Driver(path) as driver:
        info = driver.engine.models[0]
        assert (info.execution, info.context_length) == ("packed", 256 * RATIO)
        answer = await driver.ask(prompt, tokens=16)
    assert answer.ids == condensed_answer(prompt, 16)
    assert answer.ids != tiny.generate(tiny.make_model("Llama"), prompt, 16)


def test_the_log_and_the_fingerprint_tell(tmp_path: Path) -> None:
    said: list[str] = []
    plain = load(LoadOptions(save(tmp_path / "a")), said.append)
    assert not any(sentence.startswith("rope") for sentence in said)
    condensed = load(LoadOptions(save(tmp_path / "b", rope_condense_ratio=RATIO)), said.append)
    assert "rope: positions divided by 4, as LongChat was trained" in said
    assert plain.fingerprint != condensed.fingerprint


@pytest.mark.parametrize(
    ("settings", "name", "factor", "positions"),
    [
        ({"max_position_embeddings": 2048}, "longchat-7b-16k", 8.0, 16384),
        ({"max_position_embeddings": 16384}, "LongChat-13b-16k", 8.0, 16384),
        ({"max_position_embeddings": 2048, "rope_condense_ratio": 2}, "anything", 2.0, 4096),
        ({"max_position_embeddings": 2048, "rope_condense_ratio": 1}, "anything", None, 2048),
        ({"max_position_embeddings": 2048}, "vicuna-7b-v1.5-16k", None, 2048),
        (
            {"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "linear", "factor": 8.0}},
            "longchat-7b-v1.5-32k",
            8.0,
            4096,
        ),
    ],
)
def test_which_models_are_condensed(settings: dict[str, Any], name: str, factor: float | None, positions: int) -> None:
    config: Any = LlamaConfig(**settings)
    condense_rope(config, [name])
    assert config.rope_parameters.get("factor") == factor
    assert config.max_position_embeddings == positions
