"""Where the weights go: one device, several GPUs, or GPUs and main memory; and whether they fit there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from transformers import PreTrainedModel
from transformers.distributed.configuration_utils import DistributedConfig

from mesh.engine.transformers.loading.checkpoint import Checkpoint
from mesh.engine.transformers.loading.device import device_count
from mesh.engine.transformers.loading.quantization import Quantization, runs_int8
from mesh.engine.transformers.memory import free_memory, gib
from mesh.errors import invalid

# Bytes of a weight after quantization, with scales, and with what is left as it is.
_QUANTIZED_BYTES: Final[dict[Quantization, float]] = {"int8": 1.2, "nf4": 0.7}
# Of free memory, where nothing else is said: the rest is for activations and the KV cache.
_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Placement:
    """The device of a model, or the first of `num_gpus`.

    Of a tensor parallel model it is that of this process, one of `ranks`, which share the weights equally.
    Weights take up to `max_gpu_memory` bytes of each GPU (None: 90 % of what is free), and main memory after that with
    `cpu_offloading`.
    """

    device: torch.device
    num_gpus: int = 1
    max_gpu_memory: int | None = None
    cpu_offloading: bool = False
    ranks: int = 1

    def __post_init__(self) -> None:
        spread = {
            "num_gpus": self.num_gpus > 1,
            "max_gpu_memory": self.max_gpu_memory is not None,
            "cpu_offloading": self.cpu_offloading,
        }
        if self.device.type != "cpu" and self.num_gpus > device_count(self.device.type) - self._first:
            found = f"this machine has {device_count(self.device.type)} {self.device.type} devices"
            raise invalid("num_gpus", f"'num_gpus' is {self.num_gpus} from {self.device} on, but {found}")
        if self.device.type not in ("cuda", "xpu", "npu"):
            for name in (name for name, wanted in spread.items() if wanted):
                raise invalid(name, f"'{name}' is for GPUs, and 'device' is {self.device}")

    @property
    def _first(self) -> int:
        return self.device.index or 0

    @property
    def split(self) -> bool:
        """Whether the weights may end up on more than one device."""
        return self.num_gpus > 1 or self.max_gpu_memory is not None or self.cpu_offloading

    def gpu_memory(self) -> dict[int, int]:
        """Bytes for weights on each GPU."""
        gpus = range(self._first, self._first + self.num_gpus)
        free = {gpu: free_memory(torch.device(self.device.type, gpu)) for gpu in gpus}
        most = self.max_gpu_memory
        return {gpu: min(most, count) if most is not None else int(count * _SHARE) for gpu, count in free.items()}

    def arguments(self) -> dict[str, Any]:
        """What `from_pretrained` needs."""
        if self.ranks > 1:
            return {"distributed_config": DistributedConfig(tp_size=self.ranks)}
        if self.device.type == "cpu":
            return {}
        if not self.split:
            return {"device_map": {"": self.device}}
        memory: dict[int | str, int] = {**self.gpu_memory()}
        if self.cpu_offloading:
            memory["cpu"] = free_memory(torch.device("cpu"))
        # Fewer weights on the first GPU, which has the KV cache.
        return {"device_map": "balanced_low_0" if self.num_gpus > 1 else "sequential", "max_memory": memory}

    def check_fits(self, checkpoint: Checkpoint, dtype: torch.dtype | str, quantization: Quantization) -> None:
        """Refuse weights that do not fit before minutes are spent on loading them; says what would help."""
        gpus = sum(self.gpu_memory().values()) if self.split else free_memory(self.device)
        host = free_memory(torch.device("cpu")) if self.cpu_offloading else 0
        needed = _weights_bytes(checkpoint, dtype, quantization, self.device)
        if self.ranks > 1 and self.device.type != "cpu":
            needed = -(-needed // self.ranks)  # on a CPU all ranks take of the same memory
        if needed <= gpus + host:
            return
        where = f"{self.num_gpus} {self.device.type} devices have" if self.num_gpus > 1 else f"{self.device} has"
        kind = quantization if quantization != "none" else str(dtype).removeprefix("torch.")
        number_format = "as they are stored" if kind == "auto" else f"as {kind}"
        each = f" on each of {self.ranks} devices" if self.ranks > 1 and self.device.type != "cpu" else ""
        text = (
            f"the weights in '{checkpoint.folder}' take {gib(needed)} {number_format}{each}, and {where} "
            f"{gib(gpus + host)} for them: {gib(needed - gpus - host)} are missing"
        )
        helps = self._remedies(checkpoint, dtype, quantization, gpus)
        raise invalid("device", f"{text}; what would help: {', '.join(helps)}" if helps else text)

    def _remedies(
        self, checkpoint: Checkpoint, dtype: torch.dtype | str, quantization: Quantization, gpus: int
    ) -> list[str]:
        """The flags with which the weights would fit."""
        found: list[str] = []

        def smaller(other: torch.dtype | str, method: Quantization) -> bool:
            return _weights_bytes(checkpoint, other, method, self.device) <= gpus

        if dtype == torch.float32 and smaller(torch.bfloat16, quantization):
            found.append("--dtype bfloat16")
        if quantization == "none":
            if smaller(dtype, "int8"):
                found.append("--load-8bit")
            if smaller(dtype, "nf4"):
                found.append("--load-4bit")
        if self.device.type == "cpu":
            return found
        needed = _weights_bytes(checkpoint, dtype, quantization, self.device)
        count = -(-needed * self.num_gpus // max(1, gpus))
        if count <= device_count(self.device.type) - self._first:
            found.append(f"--num-gpus {count}")
        if not self.cpu_offloading and needed <= gpus + free_memory(torch.device("cpu")):
            found.append("--cpu-offloading")
        return found


def _weights_bytes(
    checkpoint: Checkpoint, dtype: torch.dtype | str, quantization: Quantization, device: torch.device
) -> int:
    sizes = list(checkpoint.tensors())
    # On a CPU int8 comes after loading.
    if quantization != "none" and not runs_int8(quantization, device):
        return int(sum(numbers for numbers, _ in sizes) * _QUANTIZED_BYTES[quantization])
    if isinstance(dtype, torch.dtype):
        return sum(numbers for numbers, _ in sizes) * dtype.itemsize
    return sum(stored for _, stored in sizes)


def check_placed(model: PreTrainedModel) -> None:
    """Refuse a model of which transformers left a part on the disk."""
    places: dict[str, Any] = getattr(model, "hf_device_map", None) or {}
    if "disk" in places.values():
        part = next(name for name, place in places.items() if place == "disk")
        raise invalid("device", f"the weights do not fit: '{part}' would be left on the disk; see '--cpu-offloading'")
