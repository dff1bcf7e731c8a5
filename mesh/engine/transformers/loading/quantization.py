"""Quantized weights: found in a checkpoint, or made when loading."""

from __future__ import annotations

import importlib.util
from typing import Any, Final, Literal, cast

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils.quantization_config import QuantizationMethod

from mesh.engine.transformers.loading.checkpoint import Checkpoint
from mesh.errors import invalid

Quantization = Literal["none", "int8", "nf4"]

# What the methods of checkpoints need beside transformers, as it is imported and as it is installed. Those that are not
# here need nothing, or transformers says what.
_PACKAGES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "aqlm": (("aqlm", "aqlm"),),
    "auto-round": (("auto_round", "auto-round"),),
    "awq": (("gptqmodel", "gptqmodel"),),
    "bitsandbytes": (("bitsandbytes", "bitsandbytes"),),
    "compressed-tensors": (("compressed_tensors", "compressed-tensors"),),
    "gptq": (("optimum", "optimum"), ("gptqmodel", "gptqmodel")),
    "hqq": (("hqq", "hqq"),),
    "quanto": (("optimum", "optimum-quanto"),),
    "torchao": (("torchao", "torchao"),),
    "vptq": (("vptq", "vptq"),),
}


def check_checkpoint(config: PretrainedConfig, quantization: Quantization) -> None:
    """Refuse a quantized checkpoint that cannot be loaded here: unknown, without its package, or to be quantized again.

    Raises invalid_request. Transformers itself would load a method that it does not know as if it were none.
    """
    method = checkpoint_method(config)
    if method is None:
        return
    if quantization != "none":
        text = f"'quantization' cannot be {quantization}: the checkpoint is quantized already ({method})"
        raise invalid("quantization", text)
    if method not in {member.value for member in QuantizationMethod}:
        known = f"transformers {transformers.__version__}"
        raise invalid("path", f"the checkpoint is quantized by '{method}', which {known} does not know")
    missing = [wheel for module, wheel in _PACKAGES.get(method, ()) if importlib.util.find_spec(module) is None]
    if missing:
        raise invalid("path", f"the checkpoint is quantized by '{method}': pip install {' '.join(missing)}")


def checkpoint_method(config: PretrainedConfig) -> str | None:
    """How a checkpoint is quantized, by its configuration; None if it is not."""
    found: object = getattr(config, "quantization_config", None)
    if found is None:
        return None
    described = cast("dict[str, Any]", found if isinstance(found, dict) else cast("Any", found).to_dict())
    if described.get("load_in_8bit") or described.get("load_in_4bit"):
        return "bitsandbytes"
    method = described.get("quant_method")
    return str(getattr(method, "value", method))


def load_arguments(
    quantization: Quantization,
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype | str,
    *,
    cpu_offloading: bool = False,
) -> dict[str, Any]:
    """What `from_pretrained` needs to quantize while it loads; nothing where that is done afterwards, by int8.py.

    Raises invalid_request where it cannot be done.
    """
    if quantization == "none" or runs_int8(quantization, device):
        return {}
    if checkpoint.kind == "gguf":
        raise invalid("quantization", f"'quantization' of a GGUF file cannot be {quantization} on {device.type}")
    if importlib.util.find_spec("bitsandbytes") is None:
        where = f"'quantization' {quantization} on {device.type}"
        raise invalid("quantization", f"{where} needs the package 'bitsandbytes': pip install bitsandbytes")
    make: Any = transformers.BitsAndBytesConfig
    # Layers in main memory are not quantized.
    offload = {"llm_int8_enable_fp32_cpu_offload": True} if cpu_offloading else {}
    if quantization == "int8":
        return {"quantization_config": make(load_in_8bit=True, **offload)}
    compute = dtype if isinstance(dtype, torch.dtype) else torch.bfloat16
    return {
        "quantization_config": make(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=compute,
            bnb_4bit_use_double_quant=True,
            **offload,
        )
    }


def runs_int8(quantization: Quantization, device: torch.device) -> bool:
    """Whether int8 is ours: on a CPU."""
    return quantization == "int8" and device.type == "cpu"


def number_format(
    model: PreTrainedModel, quantization: Quantization, config: PretrainedConfig, device: torch.device
) -> str:
    """For the fingerprint: with which numbers the model computes, as far as its configuration does not tell."""
    parts = [str(model.dtype)]
    if quantization != "none":
        # The 8-bit method of bitsandbytes keeps outliers in 16 bits: other numbers than ours.
        parts.append("int8" if runs_int8(quantization, device) else f"bitsandbytes {quantization}")
    elif checkpoint_method(config) is not None and not getattr(model, "is_quantized", False):
        parts.append("dequantized")
    return " ".join(parts)
