"""Tiny random models of many architectures, saved as a person would have them on disk.

Their weights are drawn wide enough that likely tokens differ by much more than rounding does: two correct ways to
compute an answer then give the same tokens.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

VOCAB = 320
EOS = 257

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 256,
    "eos_token_id": EOS,
    "pad_token_id": 258,
    "tie_word_embeddings": False,
}
_MOE: dict[str, Any] = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_GPT2: dict[str, Any] = {"n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 256}
_SLIDING: dict[str, Any] = {"sliding_window": 16}
_MAMBA: dict[str, Any] = {"state_size": 8, "conv_kernel": 4, "time_step_rank": 4, "expand": 2}

_HYBRID: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 16}

# Class prefix, and a word if there are several of a class -> what its configuration needs besides SIZES.
PACKED: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {"head_dim": 16},
    "Mistral": _SLIDING,
    "Gemma": {"head_dim": 8},
    "Gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8, **_SLIDING},
    "Gemma3": {"head_dim": 8, "query_pre_attn_scalar": 8, "layer_types": None, **_SLIDING},
    "Phi": {},
    "Phi3": {**_SLIDING},
    "Mixtral": _MOE,
    "Qwen2Moe": {**_MOE, "shared_expert_intermediate_size": 32},
    "Qwen3Moe": {**_MOE, "head_dim": 8},
    "GptOss": {**_MOE, "head_dim": 8, **_SLIDING},
    "Olmo2": {},
    "Granite": {},
    "Cohere": {},
    "Starcoder2": _SLIDING,
    "SmolLM3": {},
    "GPTNeoX": {},
    "GPT2": _GPT2,
    "OPT": {"word_embed_proj_dim": 32, "ffn_dim": 64},
    "StableLm": {},
    "DeepseekV3": {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 8,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
        "num_key_value_heads": 4,
    },
    "Cohere2": _SLIDING,
    "Olmo": {},
    "Olmo3": _SLIDING,
    "Olmoe": _MOE,
    "Ernie4_5": {"head_dim": 8},
    "SeedOss": {"head_dim": 8},
    "HunYuanDenseV1": {"head_dim": 8},
    "Exaone4": _SLIDING,
    "Glm": {"head_dim": 8},
    "Glm4": {"head_dim": 8},
    "GraniteMoe": _MOE,
    "Nemotron": {},
    "MiniMaxM2": {**_MOE, "head_dim": 8, "rotary_dim": 8},
    "Llama4": {**_MOE, "head_dim": 8, "intermediate_size_mlp": 64},
    # A window as long as the context hides nothing, whether the layers tell it or not.
    "Phimoe": {**_MOE, "sliding_window": 256},
    "GPTBigCode": _GPT2,
    "BioGpt": {},
    "Persimmon": {},
    "Bert": {"is_decoder": True},
}
PER_SEQUENCE: dict[str, dict[str, Any]] = {
    "Falcon": {"new_decoder_architecture": False, "multi_query": True, "alibi": False},
    "Falcon new": {"new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False},
    "Falcon alibi": {"new_decoder_architecture": False, "multi_query": False, "alibi": True, "parallel_attn": False},
    "Bloom": {"n_layer": 3, "n_head": 4},
    "GPTJ": {**_GPT2, "rotary_dim": 8},
    "CodeGen": {**_GPT2, "rotary_dim": 8},
    "GPTNeo": {"num_hidden_layers": 4, "attention_types": [[["global", "local"], 2]], "window_size": 16},
    "XGLM": {"d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 4, "pad_token_id": 1},
    "Phimoe window": {**_MOE, **_SLIDING},
    "Mpt": {"d_model": 32, "n_heads": 4, "n_layers": 3, "max_seq_len": 256},
    "Mamba": _MAMBA,
    "Mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 16},
    "FalconMamba": _MAMBA,
    "Jamba": {
        **_MOE,
        "num_hidden_layers": 4,
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    # Counts positions from 0 in each call unless it is told better.
    "Bamba": {**_HYBRID, "attn_layer_indices": [1]},
    "GraniteMoeHybrid": {
        **_MOE,
        **_HYBRID,
        "shared_intermediate_size": 32,
        "layer_types": ["mamba", "attention", "mamba"],
    },
    "FalconH1": {**_HYBRID, "mamba_d_ssm": 64, "head_dim": 8},
    "Zamba2": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention"],
        "mamba_d_state": 8,
        "n_mamba_heads": 8,
        "mamba_ngroups": 1,
        "chunk_size": 16,
        "adapter_rank": 4,
    },
    "MiniMax": {**_MOE, "head_dim": 8, "layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "RecurrentGemma": {"lru_width": 32, "attention_window_size": 16, "head_dim": 8},
    "Rwkv": {"attention_hidden_size": 32},
    "Lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "Qwen3Next": {
        **_MOE,
        "head_dim": 8,
        "num_hidden_layers": 4,
        "shared_expert_intermediate_size": 32,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
    "T5": {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 258},
    "MT5": {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 258},
    "Bart": {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "decoder_start_token_id": 257,
        "forced_eos_token_id": None,
    },
}


def make_model(name: str, **changes: Any) -> PreTrainedModel:
    """A random model of this name in PACKED or PER_SEQUENCE, else of this class prefix, in evaluation mode."""
    options = {**SIZES, **(PACKED.get(name) or PER_SEQUENCE.get(name) or {}), **changes}
    options = {key: value for key, value in options.items() if value is not None or key == "forced_eos_token_id"}
    config = _class(name, "TextConfig", "Config")(**options)
    torch.manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little"))
    endings = ("ForConditionalGeneration",) if config.is_encoder_decoder else ("ForCausalLM", "LMHeadModel")
    model = _class(name, *endings)(config)
    # The attention that models spell out themselves: Gemma 2's soft caps are lost in others of transformers 5.17.
    model.set_attn_implementation("eager")
    widen(model)
    return model.eval()


def widen(model: PreTrainedModel) -> None:
    """Draw the weights of a model anew, wide enough that its likely tokens differ clearly."""
    with torch.no_grad():
        for parameter in _matrices(model):
            parameter.normal_(std=1.0 if parameter.shape[0] == VOCAB else 1.5 * parameter.shape[-1] ** -0.5)


def _class(name: str, *endings: str) -> Callable[..., Any]:
    for ending in endings:
        if found := getattr(transformers, name.split()[0] + ending, None):
            return found
    raise LookupError(f"transformers has no model {name}")


def _matrices(model: PreTrainedModel) -> list[torch.nn.Parameter]:
    kinds = (torch.nn.Linear, torch.nn.Embedding, transformers.pytorch_utils.Conv1D)
    return [cast("torch.nn.Parameter", module.weight) for module in model.modules() if isinstance(module, kinds)]


@functools.cache
def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and special tokens; with a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {char: place for place, char in enumerate(alphabet)}
    for place, special in enumerate(("<s>", "</s>", "<pad>")):
        vocabulary[special] = 256 + place
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=256
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant: {% endif %}"
    )
    return tokenizer


def save(folder: Path, name: str, **changes: Any) -> tuple[str, PreTrainedModel]:
    """Write a model and its tokenizer to `folder`; returns the path and the model for comparison."""
    model = make_model(name, **changes)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder), model


def generate(model: PreTrainedModel, prompt: list[int], tokens: int, *, eos: bool = False) -> list[int]:
    """What transformers itself answers, greedily."""
    arguments: dict[str, Any] = {"max_new_tokens": tokens, "do_sample": False, "num_beams": 1}
    if not eos:
        arguments["eos_token_id"] = None
    with torch.no_grad():
        ids = torch.tensor([prompt])
        run = cast("Callable[..., torch.Tensor]", model.generate)
        output = cast("list[int]", run(ids, attention_mask=torch.ones_like(ids), **arguments)[0].tolist())
    return output[1:] if model.config.is_encoder_decoder else output[len(prompt) :]
