"""How a model is spread over several devices: each layer over all of them, or layer after layer."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from transformers import PretrainedConfig

from mesh.engine.transformers.loading.config import generates, read_config
from mesh.engine.transformers.loading.device import device_count, find_device
from mesh.engine.transformers.options import EngineOptions
from mesh.engine.transformers.parallel.place import torchrun_place
from mesh.engine.transformers.vision.processor import sees
from mesh.errors import invalid

log = logging.getLogger(__name__)

_PARAM = "tensor_parallel_size"
# What is cut into equal parts. Keys and values have no heads of their own where the second is missing.
_DIVIDED = ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")


def choose_ranks(options: EngineOptions) -> EngineOptions:
    """The options with the number of processes settled: `tensor_parallel_size` is a number from here on.

    Raises invalid_request where tensor parallelism is asked for by name and the model or another option excludes it.
    """
    model, place = options.model, torchrun_place()
    if place is not None and model.tensor_parallel_size in (None, place.world):
        model = replace(model, tensor_parallel_size=place.world)
    elif place is not None:
        text = f"'{_PARAM}' is {model.tensor_parallel_size}, but torchrun started {place.world} processes"
        raise invalid(_PARAM, text)
    wanted = model.tensor_parallel_size or model.num_gpus
    if wanted == 1 or model.tensor_parallel_size == 1:
        return replace(options, model=replace(model, tensor_parallel_size=1))
    if model.num_gpus not in (1, wanted):
        text = f"'num_gpus' is {model.num_gpus} and '{_PARAM}' {wanted}: one of them is enough, or both are equal"
        raise invalid("num_gpus", text)
    device = find_device(model.device)
    if model.tensor_parallel_size is None and device.type == "cpu":
        return options  # to be refused by what places the weights
    reason = _by_options(options) or _by_device(device, wanted) or _by_config(read_config(model, log.info), wanted)
    if reason is None:
        log.info("each layer is spread over %d processes, as the model's plan says (tensor parallel)", wanted)
        return replace(options, model=replace(model, num_gpus=1, tensor_parallel_size=wanted))
    if model.tensor_parallel_size is not None:
        raise invalid(_PARAM, f"'{_PARAM}' is {wanted}, which cannot be: {reason}")
    log.info("the layers are spread over %d devices, one after the other, and not tensor parallel: %s", wanted, reason)
    return replace(options, model=replace(model, tensor_parallel_size=1))


def _by_options(options: EngineOptions) -> str | None:
    model = options.model
    excluded = {
        "max_gpu_memory": model.max_gpu_memory is not None,
        "cpu_offloading": model.cpu_offloading,
        "quantization": model.quantization != "none",
        "gguf_file": model.gguf_file is not None or model.path.endswith(".gguf"),
        "lora": bool(options.adapters),
        "compile": options.compile,
    }
    if found := [name for name, given in excluded.items() if given]:
        return f"'{found[0]}' excludes it"
    if options.kv_cache.parts > 1:
        return "this process serves several models"
    return None if options.packed else "'packed' is off"


def _by_device(device: torch.device, wanted: int) -> str | None:
    accelerator = torch.accelerator.current_accelerator()
    kind = accelerator.type if accelerator is not None else "cpu"
    if kind != device.type:
        # transformers makes its mesh of the accelerator, whatever device is asked for.
        return f"'device' is {device}, and transformers would use the machine's {kind} devices"
    there = device_count(device.type) - (device.index or 0)
    if device.type != "cpu" and there < wanted:
        return f"there are {there} {device.type} devices from {device} on"
    return None


def _by_config(config: PretrainedConfig, wanted: int) -> str | None:
    text = config.get_text_config(decoder=True)
    if not generates(config):
        return "the model does not generate text"
    if sees(config):
        return "the model sees pictures"
    if config.is_encoder_decoder:
        return "the model has an encoder"
    if getattr(config, "quantization_config", None):
        return "its weights are quantized"
    if not getattr(text, "base_model_tp_plan", None):
        return f"transformers has no plan for models of type '{config.model_type}'"
    for name in _DIVIDED:
        size = getattr(text, name, None)
        if isinstance(size, int) and size % wanted:
            return f"its '{name}' ({size}) cannot be divided by {wanted}"
    return None
