"""What is loaded, and how."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.dialects import AUTO
from mesh.engine.transformers.loading.quantization import Quantization
from mesh.engine.transformers.loading.source import Hub


@dataclass(frozen=True)
class LoadOptions:
    """What to load and how.

    `path` is a folder, a *.gguf file or a hub name; `name` the served name (default: the last part of `path`); `device`
    auto, cpu, cuda, cuda:1, mps, xpu or npu; `dtype` auto, float32, bfloat16 or float16; `threads` of torch;
    `context_length` in tokens, at most the model's own; `chat_template` is jinja text, a file of it, or the name of a
    built-in template, and replaces the model's own; with `allow_chat_templates` requests may bring theirs. `gguf_file`
    names a file in the folder or on the hub; `allow_pickle` takes weights in torch's own format where there are no
    safetensors. `quantization` is how linear layers are quantized when loading: int8, nf4 or none. `num_gpus`,
    `max_gpu_memory` (bytes on each) and `cpu_offloading` spread the weights, see Placement. `tensor_parallel_size` is
    the number of processes that compute each layer together; None leaves it to the model, see parallel/plan.py.
    """

    path: str
    name: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    quantization: Quantization = "none"
    hub: Hub = "huggingface"
    revision: str | None = None
    gguf_file: str | None = None
    allow_pickle: bool = False
    num_gpus: int = 1
    tensor_parallel_size: int | None = None
    max_gpu_memory: int | None = None
    cpu_offloading: bool = False
    trust_remote_code: bool = False
    threads: int | None = None
    context_length: int | None = None
    chat_template: str | None = None
    allow_chat_templates: bool = False
    tool_parser: str = AUTO
    reasoning_parser: str = AUTO

    @property
    def ranks(self) -> int:
        """The number of processes, once it is settled."""
        return self.tensor_parallel_size or 1
