"""Loading a model from a folder or from the hub: everything that can be wrong with it is said in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.models.auto import modeling_auto

from mesh.engine.chat import ChatRenderer
from mesh.engine.text import Tokenizer
from mesh.engine.transformers.layers import int8
from mesh.engine.transformers.loading.bars import Report, reported
from mesh.engine.transformers.loading.checkpoint import Checkpoint, find_checkpoint
from mesh.engine.transformers.loading.config import (
    architecture_of,
    classifies,
    config_in,
    context_length_of,
    eos_token_ids_of,
    first_sentence,
    generates,
    is_encoder,
    is_headless,
    source_of,
)
from mesh.engine.transformers.loading.device import default_threads, find_device
from mesh.engine.transformers.loading.fingerprint import fingerprint
from mesh.engine.transformers.loading.options import LoadOptions
from mesh.engine.transformers.loading.placement import Placement, check_placed
from mesh.engine.transformers.loading.quantization import (
    check_checkpoint,
    load_arguments,
    number_format,
    runs_int8,
)
from mesh.engine.transformers.loading.rope import condense_rope
from mesh.engine.transformers.loading.text_side import chat_for, folder_name, names_of, template_for, tokenizer_in
from mesh.engine.transformers.vision.processor import find_processor, sees
from mesh.errors import invalid

_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Up to here float32 is affordable on a CPU, and it makes answers equal in the last bit whatever the batch.
_FLOAT32_BELOW: Final = 1_500_000_000
# Models whose own `generate` puts something beside or behind the tokens.
_OWN_INPUTS: Final = ("cpmant", "xlm", "xlnet")


@dataclass
class LoadedModel:
    """A model that is ready to run: in eval mode, on its device, without gradients.

    `vocab_size` is the width of the logits; `parameters` counts tied weights once. A model that does not generate has
    no head, and its output is hidden states, unless it `classifies`.
    """

    name: str
    model: PreTrainedModel
    tokenizer: Tokenizer
    chat: ChatRenderer
    config: PretrainedConfig
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    context_length: int
    eos_token_ids: tuple[int, ...]
    vocab_size: int
    parameters: int
    architecture: str
    has_chat_template: bool
    folder: Path
    generates: bool
    classifies: bool
    processor: ProcessorMixin | None = None  # of models that see pictures


def load(options: LoadOptions, progress: Report) -> LoadedModel:
    """Load a model; takes seconds to minutes. `progress` gets short sentences, on this thread.

    Raises invalid_request with one sentence naming the folder, file or option at fault.
    """
    device = find_device(options.device)
    placement = Placement(device, options.num_gpus, options.max_gpu_memory, options.cpu_offloading, ranks=options.ranks)
    torch.set_num_threads(options.threads or default_threads())
    folder, gguf = source_of(options).find(progress)
    checkpoint = find_checkpoint(folder, gguf=gguf, allow_pickle=options.allow_pickle)
    config = config_in(folder, gguf, options)
    names = names_of(options.path, folder)
    if said := condense_rope(config, names):
        progress(said)
    hf_tokenizer = tokenizer_in(folder, gguf, options)
    # Before the template: it may bring one.
    processor = None if gguf else find_processor(folder, config, hf_tokenizer)
    template = template_for(options, hf_tokenizer, names, config.model_type, progress)
    context_length = context_length_of(options, config)
    check_checkpoint(config, options.quantization)
    dtype = _dtype(options.dtype, device, checkpoint, config)
    placement.check_fits(checkpoint, dtype, options.quantization)
    model = _model(checkpoint, config, dtype, placement, options, progress)
    parameters, vocab_size = sum(parameter.numel() for parameter in model.parameters()), _vocab_size(model)
    if runs_int8(options.quantization, device):
        progress(f"{int8.quantize(model, vocab_size)} linear layers in 8 bits")
    eos_token_ids = eos_token_ids_of(getattr(model, "generation_config", None), config, hf_tokenizer)
    tokenizer = Tokenizer(hf_tokenizer, eos_token_ids)
    chat = chat_for(options, tokenizer, template)
    progress("computing the fingerprint")
    numbers = number_format(model, options.quantization, config, device)
    return LoadedModel(
        name=options.name or folder_name(options.path),
        model=model,
        tokenizer=tokenizer,
        chat=chat,
        config=config,
        device=device,
        dtype=model.dtype,
        fingerprint=fingerprint(checkpoint, config.to_dict(), chat.facts, numbers),
        context_length=context_length,
        eos_token_ids=eos_token_ids,
        vocab_size=vocab_size,
        parameters=parameters,
        architecture=type(model).__name__,
        has_chat_template=chat.has_template,
        folder=folder,
        generates=generates(config),
        classifies=classifies(config),
        processor=processor,
    )


def _dtype(name: str, device: torch.device, checkpoint: Checkpoint, config: PretrainedConfig) -> torch.dtype | str:
    if name != "auto":
        if name not in _DTYPES:
            raise invalid("dtype", f"'dtype' must be auto, {', '.join(_DTYPES)}, not '{name}'")
        return _DTYPES[name]
    if device.type != "cpu" or getattr(config, "quantization_config", None):
        # A GGUF file of blocks does not say in which format it is to be computed.
        return torch.bfloat16 if checkpoint.kind == "gguf" else "auto"
    small = sum(numbers for numbers, _ in checkpoint.tensors()) < _FLOAT32_BELOW
    # Without hardware support bfloat16 is several times slower than float32 in batches.
    return torch.float32 if small or not torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.bfloat16


def _model(
    checkpoint: Checkpoint,
    config: PretrainedConfig,
    dtype: torch.dtype | str,
    placement: Placement,
    options: LoadOptions,
    progress: Report,
) -> PreTrainedModel:
    folder = checkpoint.folder
    kind = _auto_class(config, folder)
    progress(
        f"loading weights ({checkpoint.bytes / 1e9:.2f} GB in {len(checkpoint.files)} files) to {placement.device}"
    )
    quantized = load_arguments(
        options.quantization, checkpoint, placement.device, dtype, cpu_offloading=placement.cpu_offloading
    )
    try:
        with reported(progress):
            model, info = kind.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                trust_remote_code=options.trust_remote_code,
                output_loading_info=True,
                **_format_arguments(checkpoint),
                **quantized,
                **placement.arguments(),
            )
    except Exception as error:  # memory, damage, shapes: any exception is about these weights
        raise invalid("path", f"the weights in '{folder}' cannot be loaded: {first_sentence(error)}") from error
    check_placed(model)
    # A pooler of the model's own is not used: see pooling.py.
    if missing := sorted(key for key in info["missing_keys"] if not key.startswith("pooler.")):
        # Transformers would go on with random numbers.
        raise invalid("path", f"the weights in '{folder}' lack {len(missing)} tensors, such as '{missing[0]}'")
    return cast(PreTrainedModel, model.eval().requires_grad_(False))


def _format_arguments(checkpoint: Checkpoint) -> dict[str, Any]:
    match checkpoint.kind:
        case "safetensors":
            return {"use_safetensors": True}
        case "pickle":
            return {"use_safetensors": False, "weights_only": True}
        case "gguf":
            return {"gguf_file": checkpoint.files[0].name, **_unpacked_gguf()}


def _unpacked_gguf() -> dict[str, Any]:
    """Newer transformers would compute with the file's blocks where it finds kernels: with other numbers elsewhere."""
    kind: Any = getattr(transformers, "GgufConfig", None)
    return {} if kind is None else {"quantization_config": kind(dequantize=True)}


def _auto_class(config: PretrainedConfig, folder: Path) -> Any:
    """The transformers class that loads a model: for text generation, for classes, or for embedding without a head."""
    if is_headless(config):
        name = architecture_of(config)
        return getattr(transformers, name if name.endswith("Model") else "AutoModel", transformers.AutoModel)
    if classifies(config):
        return transformers.AutoModelForSequenceClassification
    kind = config.model_type
    remote: dict[str, str] = getattr(config, "auto_map", None) or {}
    seq_to_seq = kind in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    # Bart and its kin are in both lists: as a causal model their encoder would be dropped without a word.
    if seq_to_seq and config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    if kind in _OWN_INPUTS:
        raise invalid("path", f"'{folder}' holds a model of type '{kind}', which needs inputs beyond its tokens")
    if is_encoder(config):
        raise invalid("path", f"'{folder}' holds an encoder (type '{kind}'), which does not generate text")
    if sees(config):
        return transformers.AutoModelForImageTextToText
    if kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or "AutoModelForCausalLM" in remote:
        return transformers.AutoModelForCausalLM
    if seq_to_seq or "AutoModelForSeq2SeqLM" in remote:
        return transformers.AutoModelForSeq2SeqLM
    if kind in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return transformers.AutoModelForImageTextToText
    raise invalid("path", f"'{folder}' holds a model of type '{kind}', which does not generate text")


def _vocab_size(model: PreTrainedModel) -> int:
    head: Any = cast(Any, model).get_output_embeddings()
    weight: torch.Tensor | None = getattr(head, "weight", None)
    return int(weight.shape[0]) if weight is not None else int(model.config.get_text_config().vocab_size)
