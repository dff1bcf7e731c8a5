"""Adapters on disk: settings mean what they mean to PEFT, and what cannot be honoured is refused by name."""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from mesh.engine.transformers.lora.files import Base, read_adapter
from mesh.engine.transformers.lora.hooks import Adapter, LoraHooks, Share, find_places
from mesh.errors import MeshError
from tests.model import tiny
from tests.model.adapters import make_adapter, read, write
from tests.model.driver import prompt_of

Saved = tuple[str, PreTrainedModel]
Tensors = dict[str, torch.Tensor]
LAYER = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return cast("Any", model)(input_ids=torch.tensor([prompt_of(5)]), logits_to_keep=2).logits


def base_of(saved: Saved) -> Base:
    path, model = saved

    def run() -> int:
        logits(model)
        return 5

    vocabulary: Callable[[], dict[str, int]] = tiny.make_tokenizer().get_vocab
    places = find_places(model, run)
    return Base("tiny", path, "fingerprint", places, vocabulary, torch.float32, torch.device("cpu"))


@pytest.fixture(scope="module")
def base(llama: Saved) -> Base:
    return base_of(llama)


def changed_logits(base: Base, model: PreTrainedModel, adapter: Adapter) -> torch.Tensor:
    with LoraHooks(base.places).applied([Share(adapter, None)]):
        return logits(model)


def hooked(model: nn.Module) -> int:
    modules = cast("Iterable[Any]", model.modules())
    return sum(len(module._forward_hooks) for module in modules)


def test_without_adapters_nothing_is_hooked(llama: Saved, base: Base, tmp_path: Path) -> None:
    model = llama[1]
    adapter = read_adapter("a", Path(make_adapter(tmp_path, model).path), base)
    hooks = LoraHooks(base.places)
    plain = logits(model)
    with hooks.applied([Share(adapter, None)]):
        assert hooked(model) == len(adapter.layers) == 21
        assert not torch.equal(logits(model), plain)
    with hooks.applied([]):
        assert hooked(model) == 0
        assert torch.equal(logits(model), plain)


# Settings

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank-stabilized": {"use_rslora": True},
    "ranks and alphas of their own": {
        "target_modules": ["q_proj", "up_proj"],
        "rank_pattern": {"layers.0.self_attn.q_proj": 2, r"^model\.layers\.2\..*up_proj": 3},
        "alpha_pattern": {"up_proj": 32},
    },
    "regular expression": {"target_modules": r"model\.layers\.[02]\.(self_attn\.[qv]_proj|mlp\.up_proj)"},
    "excluded": {"exclude_modules": ["layers.1.self_attn.q_proj", "v_proj"]},
    "some layers": {"layers_to_transform": [0, 2], "layers_pattern": "layers"},
    "one layer": {"layers_to_transform": 1},
    "stored the other way round": {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_settings_mean_what_they_mean_to_peft(saved: Callable[[str], Saved], tmp_path: Path, name: str) -> None:
    settings = VARIANTS[name]
    known = saved("GPT2" if "fan_in_fan_out" in settings else "Llama")
    expected = peft_logits(known[1], tmp_path, settings)
    base = base_of(known)
    found = changed_logits(base, known[1], read_adapter("a", tmp_path, base))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, logits(known[1]), rtol=1e-2, atol=1e-2)


def peft_logits(model: PreTrainedModel, folder: Path, settings: dict[str, Any]) -> torch.Tensor:
    """Logits of PEFT's own adapter of these settings, with random weights, which it saves to `folder`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import LoraConfig, get_peft_model

        given: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], **settings}
        changed: Any = get_peft_model(copy.deepcopy(model), LoraConfig(**given))
        torch.manual_seed(3)
        for key, parameter in changed.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
        changed.save_pretrained(folder)
        return logits(changed)


# What is refused

CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, "'use_dora' to true"),
    "whole layers": ({"modules_to_save": ["lm_head"]}, "'modules_to_save' to"),
    "biases": ({"bias": "all"}, "'bias' to \"all\""),
    "other kinds": ({"peft_type": "IA3"}, "'peft_type' to \"IA3\""),
    "other tasks": ({"task_type": "SEQ_CLS"}, "'task_type' to \"SEQ_CLS\""),
    "changed base weights": ({"init_lora_weights": "pissa"}, "base model's own weights"),
    "a setting of the future": ({"use_magic": 3}, "'use_magic' to 3"),
    "a type": ({"r": "8"}, "Expected `int`, got `str` - at `$.r`"),
    "a rank": ({"r": 0}, "rank of 0: must be at least 1"),
    "a pattern": ({"target_modules": "q_(proj"}, "no regular expression"),
    "no layer": ({"target_modules": ["query"]}, "layers that model 'tiny' does not have"),
    "missing weights": ({"target_modules": ["q_proj", "up_proj"]}, "targets 3 layers without weights"),
    "untargeted weights": ({"layers_to_transform": [0]}, "which its configuration does not target"),
    "another rank": ({"r": 8}, "is 4 x 32, and model 'tiny' with rank 8 needs 8 x 32"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_that_cannot_be_honoured(llama: Saved, base: Base, tmp_path: Path, name: str) -> None:
    changes, words = CONFIGS[name]
    config, tensors = read(make_adapter(tmp_path, llama[1], targets=("q_proj",)).path)
    write(tmp_path, {**config, **changes}, tensors)
    refuse(tmp_path, base, words)


def other_layer(tensors: Tensors) -> None:
    tensors["base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight"] = torch.zeros(4, 32)


def head(tensors: Tensors) -> None:
    tensors["base_model.model.lm_head.lora_A.weight"] = torch.zeros(4, 32)


def embedding(tensors: Tensors) -> None:
    tensors["base_model.model.model.embed_tokens.weight"] = torch.zeros(320, 32)


def magnitude(tensors: Tensors) -> None:
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"] = torch.zeros(32)


def half(tensors: Tensors) -> None:
    del tensors[LAYER.format(1, "B")]


def of_another_model(tensors: Tensors) -> None:
    tensors[LAYER.format(2, "A")] = torch.zeros(4, 64)


def not_a_number(tensors: Tensors) -> None:
    tensors[LAYER.format(2, "B")][3, 1] = float("nan")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_layer, "changes 'model.layers.7.self_attn.q_proj', which is no linear layer of model 'tiny'"),
        (head, "changes 'lm_head', which is not computed exactly once for each token"),
        (embedding, "embed_tokens.weight': only LoRA weights"),
        (magnitude, "lora_magnitude_vector': only LoRA weights"),
        (half, "no lora_B of 'model.layers.1.self_attn.q_proj'"),
        (of_another_model, "is 4 x 64, and model 'tiny' with rank 4 needs 4 x 32"),
        (not_a_number, "lora_B of 'model.layers.2.self_attn.q_proj' in .* holds numbers that are not finite"),
    ],
)
def test_weights_that_do_not_fit(
    llama: Saved, base: Base, tmp_path: Path, change: Callable[[Tensors], None], words: str
) -> None:
    config, tensors = read(make_adapter(tmp_path, llama[1], targets=("q_proj",)).path)
    change(tensors)
    write(tmp_path, config, tensors)
    refuse(tmp_path, base, words)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("adapter_config.json", None, "holds no adapter_config.json"),
        ("adapter_config.json", b"{", "adapter_config.json' cannot be read"),
        ("adapter_config.json", b"[]", "is not a JSON object"),
        ("adapter_model.safetensors", None, "holds no adapter_model.safetensors"),
        ("adapter_model.safetensors", b"?" * 100, "adapter_model.safetensors' cannot be read"),
        ("tokenizer.json", b'{"added_tokens": [{"id": 320, "content": "<new>"}]}', "'<new>' is token 320"),
        ("added_tokens.json", b'{"<new>": 320}', "'<new>' is token 320"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"7": {"content": "</s>"}}}', "'</s>' is token 7"),
        ("tokenizer.json", b'{"model": {"vocab": 3}}', "files cannot be understood"),
    ],
)
def test_files_that_cannot_be_used(
    llama: Saved, base: Base, tmp_path: Path, file: str, content: bytes | None, words: str
) -> None:
    make_adapter(tmp_path, llama[1], targets=("q_proj",))
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    refuse(tmp_path, base, words)


def refuse(folder: Path, base: Base, words: str) -> None:
    with pytest.raises(MeshError) as caught:
        read_adapter("a", folder, base)
    assert re.search(words.replace("$", r"\$"), caught.value.message), caught.value.message
    assert str(folder) in caught.value.message


def test_the_base_models_own_tokenizer_and_a_template(llama: Saved, base: Base, tmp_path: Path) -> None:
    """As training tools leave them beside an adapter."""
    make_adapter(tmp_path, llama[1])
    plain = read_adapter("a", tmp_path, base)
    tiny.make_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    found = read_adapter("a", tmp_path, base)
    assert (plain.chat_template, found.chat_template) == (None, "{{ messages[0].content }}!")
    assert plain.fingerprint != found.fingerprint
    (tmp_path / "chat_template.jinja").unlink()
    config = {"chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert read_adapter("a", tmp_path, base).chat_template == "y"
