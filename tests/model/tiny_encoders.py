"""Tiny random encoders with a tokenizer as BERT and RoBERTa have them, and the files of sentence-transformers."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

VOCAB = 264
SIZE = 32

_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": SIZE,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 130,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 0,
    "sep_token_id": 2,
}
# Class prefix -> what its configuration needs besides.
ENCODERS: dict[str, dict[str, Any]] = {
    "Bert": {},
    "Roberta": {},
    "XLMRoberta": {},
    "MPNet": {},
    "ModernBert": {"global_attn_every_n_layers": 2, "local_attention": 16},
}


def make_encoder(name: str, *, head: str = "Model", **changes: Any) -> PreTrainedModel:
    """A random encoder, or another model, of the class prefix `name`, wide enough that texts differ."""
    config = getattr(transformers, name + "Config")(**{**_SIZES, **ENCODERS.get(name, {}), **changes})
    torch.manual_seed(len(name))
    model = cast("PreTrainedModel", getattr(transformers, name + head)(config))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
                module.weight.normal_(std=1.5 * module.weight.shape[-1] ** -0.5)
    return model.eval()


@functools.cache
def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, between <s> and </s>."""
    vocabulary = {special: place for place, special in enumerate(("<s>", "<pad>", "</s>", "<unk>"))}
    vocabulary |= {char: 4 + place for place, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    specials = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **specials)


def save(folder: Path, model: PreTrainedModel) -> str:
    """Write a model and its tokenizer as a person would have them on disk."""
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def add_modules(
    folder: Path,
    pooling: Mapping[str, Any],
    *,
    dense: Sequence[tuple[torch.Tensor, torch.Tensor, str]] = (),
    normalize: bool = True,
    limits: Mapping[str, Any] | None = None,
) -> None:
    """Write the files of sentence-transformers; `dense` are weights, biases and activations."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    _write(folder / "1_Pooling" / "config.json", pooling)
    for weight, bias, activation in dense:
        place = f"{len(modules)}_Dense"
        modules.append((place, "Dense"))
        config = {
            "in_features": weight.shape[1],
            "out_features": weight.shape[0],
            "bias": True,
            "activation_function": f"torch.nn.modules.activation.{activation}",
        }
        _write(folder / place / "config.json", config)
        tensors = {"linear.weight": weight, "linear.bias": bias}
        cast("Any", safetensors.torch).save_file(tensors, folder / place / "model.safetensors")
    if normalize:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(modules)
    ]
    _write(folder / "modules.json", listed)
    if limits is not None:
        _write(folder / "sentence_bert_config.json", limits)


def _write(file: Path, content: object) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))
