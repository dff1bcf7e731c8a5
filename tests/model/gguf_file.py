"""A tiny model written as a GGUF file, by the format's own package, as llama.cpp's converter would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gguf
import torch
from transformers import PreTrainedModel

from tests.model import tiny

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write(file: Path, model: PreTrainedModel, kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32) -> None:
    """Write a Llama; matrices are stored as `kind`, vectors in 32 bits."""
    config: Any = model.config
    writer: Any = gguf.GGUFWriter(str(file), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, config.vocab_size)
    for name, tensor in model.state_dict().items():
        values = _interleaved(name, tensor, config).numpy()
        if tensor.ndim > 1 and kind != gguf.GGMLQuantizationType.F32:
            writer.add_tensor(_gguf_name(name), gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(_gguf_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, size: int) -> None:
    tokenizer = tiny.make_tokenizer()
    convert = cast("Callable[[list[int]], list[str]]", tokenizer.convert_ids_to_tokens)
    tokens = convert(list(range(len(tokenizer))))
    # The format asks for merges (transformers 5.17 for two): of a byte that no text has.
    tokens += ["ÿÿ", "ÿÿÿ"]
    tokens += [f"<unused{place}>" for place in range(size - len(tokens))]
    control, normal, unused = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL, gguf.TokenType.UNUSED
    special = {256: control, 257: control, 258: control}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [special.get(place, unused if token.startswith("<unused") else normal) for place, token in enumerate(tokens)]
    )
    writer.add_token_merges(["ÿ ÿ", "ÿÿ ÿ"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_pad_token_id(258)
    writer.add_chat_template(cast("str", tokenizer.chat_template))


def _gguf_name(name: str) -> str:
    stem, _, ending = name.rpartition(".")
    if stem.startswith("model.layers."):
        _, _, index, part = stem.split(".", 3)
        return f"blk.{index}.{_NAMES[part]}.{ending}"
    return f"{_NAMES[stem]}.{ending}"


def _interleaved(name: str, tensor: torch.Tensor, config: Any) -> torch.Tensor:
    """Queries and keys have the two halves of each rotated pair side by side in this format."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    rows, columns = tensor.shape
    halves = tensor.view(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns).contiguous()
