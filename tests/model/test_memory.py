"""Weights and KV caches that do not fit say so before anything is loaded; layers spread over several places."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from mesh.engine.transformers.build import build
from mesh.engine.transformers.loading.loader import load
from mesh.engine.transformers.loading.options import LoadOptions
from mesh.engine.transformers.memory import CacheSize, cache_pages, free_memory
from mesh.engine.transformers.options import EngineOptions
from mesh.engine.transformers.runners.selftest import check_packed
from mesh.errors import ErrorKind, MeshError
from tests.model import tiny
from tests.model.driver import prompt_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, PreTrainedModel]:
    return tiny.save(tmp_path_factory.mktemp("models") / "tiny", "Llama")


def huge(folder: Path, numbers: int) -> None:
    """A weight file of so many 16-bit numbers, all of it a hole."""
    header = {"w": {"dtype": "BF16", "shape": [numbers], "data_offsets": [0, 2 * numbers]}}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 2 * numbers)


@pytest.mark.parametrize(("part", "helps"), [(0.3, True), (2.0, False)])
def test_weights_that_do_not_fit_say_what_is_missing(
    saved: tuple[str, PreTrainedModel], tmp_path: Path, part: float, helps: bool
) -> None:
    folder = Path(shutil.copytree(saved[0], tmp_path / "huge"))
    huge(folder, int(free_memory(CPU) * part))
    with pytest.raises(MeshError) as caught:
        load(LoadOptions(str(folder), device="cpu", dtype="float32"), lambda _: None)
    assert caught.value.kind is ErrorKind.INVALID_REQUEST
    assert caught.value.param == "device"
    message = caught.value.message
    assert "as float32, and cpu has" in message
    assert "are missing" in message
    assert ("--dtype bfloat16" in message) == helps
    assert "--num-gpus" not in message


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_gpus": 2}, "'num_gpus' is for GPUs, and 'device' is cpu"),
        ({"max_gpu_memory": 1 << 30}, "'max_gpu_memory' is for GPUs"),
        ({"cpu_offloading": True}, "'cpu_offloading' is for GPUs"),
    ],
)
def test_what_is_for_gpus_is_refused_on_a_cpu(
    saved: tuple[str, PreTrainedModel], changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(MeshError, match=sentence) as caught:
        load(LoadOptions(saved[0], device="cpu", **changes), lambda _: None)
    assert caught.value.param == next(iter(changes))


def engine(path: str, size: CacheSize) -> int:
    """Tokens of context that an engine with this cache has."""
    with torch.inference_mode():
        _, served = build(EngineOptions(LoadOptions(path, device="cpu", threads=1), max_rows=2, kv_cache=size))
    return served.info.context_length


# 3 layers, keys and values of 2 heads of 8 numbers, 4 bytes each.
TOKEN_BYTES = 3 * 2 * 2 * 8 * 4


def test_a_cache_given_in_bytes_holds_that_many(saved: tuple[str, PreTrainedModel]) -> None:
    assert engine(saved[0], CacheSize(bytes=64 * TOKEN_BYTES)) == 64
    assert engine(saved[0], CacheSize(bytes=64 * TOKEN_BYTES - 1)) == 48


def test_a_cache_below_one_context_says_what_would_help(
    saved: tuple[str, PreTrainedModel], caplog: pytest.LogCaptureFixture
) -> None:
    engine(saved[0], CacheSize(tokens=256))
    assert "--kv-cache-memory" not in caplog.text
    engine(saved[0], CacheSize(tokens=100))
    assert "holds 96 tokens" in caplog.text
    assert "not the model's 256" in caplog.text
    assert "--kv-cache-memory 0.10MiB" in caplog.text


def test_a_cache_beyond_what_is_free_is_refused(saved: tuple[str, PreTrainedModel]) -> None:
    with pytest.raises(MeshError, match=r"'kv_cache_memory' takes .* free") as caught:
        engine(saved[0], CacheSize(bytes=2 * free_memory(CPU)))
    assert caught.value.param == "kv_cache_memory"


def test_all_that_is_free_may_be_the_cache() -> None:
    size = CacheSize(share=1.0)
    pages = cache_pages(size, page_size=16, bytes_per_token=1 << 20, most_tokens=1 << 40, device=CPU)
    assert pages - 1 == pytest.approx(free_memory(CPU) / (16 << 20), rel=0.2)


def test_layers_may_be_spread(saved: tuple[str, PreTrainedModel], tmp_path: Path) -> None:
    """As far as one CPU can show: accelerate moves weights and activations about, here from the disk."""
    places = dict.fromkeys(("model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb"), "cpu")
    places |= dict.fromkeys(("model.layers.1", "model.layers.2", "lm_head"), "disk")
    kind: Any = transformers.AutoModelForCausalLM
    spread = kind.from_pretrained(saved[0], device_map=places, offload_folder=str(tmp_path)).eval()
    assert spread.model.layers[1].mlp.up_proj.weight.device.type == "meta"
    ids = torch.tensor([prompt_of(40)])
    with torch.inference_mode():
        expected = cast("Any", saved[1])(input_ids=ids).logits
        assert torch.allclose(spread(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
        assert check_packed(spread, tiny.VOCAB, 256, 16).reason is None
