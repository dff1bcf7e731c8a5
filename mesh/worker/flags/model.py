"""Flags of engines that load a model themselves: which one, where it runs, in which number format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mesh.config import ByteSize, ConfigError, option
from mesh.worker.flags import Flags


@dataclass(frozen=True)
class ModelFlags(Flags):
    """What is loaded."""

    engines = frozenset({"transformers", "vllm"})

    model_path: tuple[str, ...] = option(
        (),
        "Folder with a Hugging Face model, its name on the hub, or a file in the GGUF format (*.gguf); repeated for "
        "several models in this worker.",
    )
    revision: str | None = option(None, "Revision of a model on the hub.")
    trust_remote_code: bool = option(False, "Run the Python code that comes with the model.")
    dtype: str = option("auto", "Number format of the weights: auto, float32, bfloat16 or float16.")


@dataclass(frozen=True)
class LoadFlags(Flags):
    """How the default engine finds and places weights; vLLM has options of its own."""

    engines = frozenset({"transformers"})

    hub: Literal["huggingface", "modelscope"] = option("huggingface", "Hub to take models from by name.")
    gguf_file: str | None = option(None, "Name of the GGUF file to load, in the folder or on the hub.")
    allow_pickle: bool = option(False, "Load weights in torch's own format (*.bin) where there are no safetensors.")
    device: str = option("auto", "Where to run: auto, cpu, cuda, cuda:N, mps, xpu or npu.")
    num_gpus: int = option(
        1, "GPUs over which the model is spread: tensor parallel where it can be, else layer after layer.", low=1
    )
    tensor_parallel_size: int | None = option(
        None,
        "Processes that compute each layer together, one for each device. Default: --num-gpus, where model and flags "
        "allow it; 1 leaves it at one process.",
        low=1,
    )
    max_gpu_memory: ByteSize | None = option(
        None, "Most memory that weights take on each GPU, such as 13GiB. Default: what is free."
    )
    cpu_offloading: bool = option(False, "Keep the layers that do not fit on the GPUs in main memory; slow.")
    quantization: Literal["none", "int8", "nf4"] = option(
        "none",
        "Quantize linear layers when loading: none, int8 (beyond CPUs by bitsandbytes) or nf4 (4 bits, bitsandbytes).",
    )
    load_8bit: bool = option(False, "The same as --quantization int8.")
    load_4bit: bool = option(False, "The same as --quantization nf4.")
    threads: int | None = option(None, "Threads of CPU computation. Default: the cores this process may use.", low=1)

    def __post_init__(self) -> None:
        if self.load_8bit + self.load_4bit + (self.quantization != "none") > 1:
            raise ConfigError("--quantization, --load-8bit and --load-4bit exclude each other")
        super().__post_init__()

    @property
    def quantization_or_alias(self) -> Literal["none", "int8", "nf4"]:
        """How linear layers are quantized, by whichever flag it was said."""
        return "int8" if self.load_8bit else "nf4" if self.load_4bit else self.quantization
