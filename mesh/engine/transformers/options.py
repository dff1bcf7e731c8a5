"""How the default engine is set up."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.engine.transformers.loading.options import LoadOptions
from mesh.engine.transformers.loading.pooling import Pooling
from mesh.engine.transformers.lora.config import AdapterSource
from mesh.engine.transformers.memory import CacheSize
from mesh.errors import invalid


@dataclass(frozen=True)
class EngineOptions:
    """What to serve and how much of it at once.

    `max_rows` is the most choices in one step, `step_tokens` the most tokens (None: 512 on CPU, 2048 on CUDA),
    `step_seconds` how long a step may take that reads prompts while others decode (0: any time),
    `page_size` the tokens of a KV page (None: 16), `max_waiting` the most choices in the queue, `prefix_cache`
    whether requests share the KV pages of equal beginnings. `packed` False takes the per-sequence path for every
    model, for comparison. `prepack` keeps the linear layers in oneDNN's weight layout on CPUs. `adapters` are loaded
    at the start, at most `max_loras` at any time; 0 takes none. `pooling` is how an embedding is made of a text's
    hidden states, None for what the model's files say. `speculate_tokens` are the most that a row guesses ahead from
    its own text; 0 is off.
    `attention` names the kernels (see kernels.py). On CUDA, `cuda_graphs` records decoding steps as graphs. `compile`
    sends the layers (CUDA) or the whole model (CPU) through torch.compile, which adapters exclude. `look_ahead` begins
    a decoding step before the tokens of the step before are known: with CUDA graphs always, elsewhere for tests, as it
    gains nothing there.
    """

    model: LoadOptions
    max_rows: int = 64
    kv_cache: CacheSize = field(default_factory=CacheSize)
    page_size: int | None = None
    step_tokens: int | None = None
    step_seconds: float = 0.25
    prefix_cache: bool = True
    max_waiting: int = 1024
    packed: bool = True
    prepack: bool = True
    adapters: tuple[AdapterSource, ...] = ()
    max_loras: int = 8
    pooling: Pooling | None = None
    speculate_tokens: int = 0
    attention: str = "auto"
    cuda_graphs: bool = True
    compile: bool = False
    look_ahead: bool = False

    def __post_init__(self) -> None:
        for name in ("max_rows", "page_size", "step_tokens", "max_waiting"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise invalid(name, f"'{name}' must be at least 1, not {value}")
        if self.step_seconds < 0:
            raise invalid("step_seconds", f"'step_seconds' must be at least 0, not {self.step_seconds:g}")
        if len(self.adapters) > self.max_loras:
            raise invalid(
                "adapters", f"'adapters' names {len(self.adapters)}, more than 'max_loras' ({self.max_loras})"
            )
        if self.step_tokens is not None and self.step_tokens < self.max_rows:
            raise invalid(
                "step_tokens",
                f"'step_tokens' must be at least 'max_rows' ({self.max_rows}), not {self.step_tokens}",
            )
