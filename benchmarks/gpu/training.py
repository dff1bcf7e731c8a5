"""`python -m benchmarks.gpu.training`: steps of training on one CUDA device, with and without flash attention.

A Llama of 1.1 billion random weights, rows of 2048 tokens, as `mesh train sft --bf16` trains: float32 weights under
autocast, AdamW in one kernel. Each way of attention with activations kept and computed twice; what does not fit is
told. Needs torch and transformers alone; some minutes. Without a CUDA device it is a tiny model on the CPU, to try the
program.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from time import perf_counter
from typing import Any, Final, cast

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.engine.model import SMALL, Shape
from benchmarks.machine import describe
from benchmarks.table import markdown, number

# TinyLlama's dimensions: 1.1G parameters.
BILLION: Final = Shape(hidden=2048, layers=22, heads=32, kv_heads=4, feed_forward=5632, vocabulary=32_000)
_HEADER: Final = ("attention", "activations", "tokens/s", "step ms", "GiB", "loss of the first step")
_WARM_UP: Final = 2


@dataclass(frozen=True, slots=True)
class Way:
    """How attention is computed: transformers' name for it, and which of torch's kernels it may take."""

    name: str
    attention: str
    kernel: SDPBackend | None = None

    def kernels(self) -> AbstractContextManager[Any]:
        """In which the model runs."""
        return nullcontext() if self.kernel is None else cast("Any", sdpa_kernel)(self.kernel)


_WAYS: Final = (
    Way("eager", "eager"),
    Way("torch, without flash attention", "sdpa", SDPBackend.MATH),
    Way("torch, flash attention", "sdpa", SDPBackend.FLASH_ATTENTION),
    Way("torch, its own choice", "sdpa"),
    Way("flash-attn", "flash_attention_2"),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.training", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rows", type=int, default=4, help="in a step (4)")
    parser.add_argument("--length", type=int, default=2048, help="tokens of a row (2048)")
    parser.add_argument("--steps", type=int, default=5, help="that are measured, after two (5)")
    parser.add_argument("--minutes", type=float, default=4.0, help="no way is begun after so long (4)")
    options = parser.parse_args(argv)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    shape = BILLION if cuda else SMALL
    print("\n".join(f"- {line}" for line in describe().lines()))
    parameters = sum(
        weight.numel() for weight in _model(shape, options.length, "eager", torch.device("meta")).parameters()
    )
    print(f"- {torch.cuda.get_device_name() if cuda else 'no CUDA device'}, {parameters / 1e9:.2f}G parameters")
    print(
        f"- {options.rows} rows of {options.length} tokens a step, bfloat16 over float32 weights, AdamW\n", flush=True
    )
    rows: list[Sequence[str]] = []
    begin = perf_counter()
    for way in (way for way in _WAYS if way.attention != "flash_attention_2" or (cuda and find_spec("flash_attn"))):
        for twice in (False, True):
            if perf_counter() - begin > 60 * options.minutes:
                print(f"{way.name}: left out, no time", file=sys.stderr)
                continue
            rows.append([way.name, "twice" if twice else "kept", *_measure(way, twice, shape, device, options)])
            print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    print(markdown(_HEADER, rows))


def _measure(way: Way, twice: bool, shape: Shape, device: torch.device, options: argparse.Namespace) -> Iterator[str]:
    """The figures of one way, or in place of them why there are none."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        with way.kernels():
            times, loss = _steps(_model(shape, options.length, way.attention, device), twice, device, options)
    except torch.OutOfMemoryError:
        yield from ("does not fit", "-", "-", "-")
        return
    except RuntimeError as error:  # a kernel that this device or number format has none of
        yield from (str(error).splitlines()[0][:60], "-", "-", "-")
        return
    finally:
        gc.collect()
        torch.cuda.empty_cache()
    step = statistics.median(times[_WARM_UP:])
    yield number(options.rows * options.length / step)
    yield number(step * 1e3)
    yield number(torch.cuda.max_memory_allocated() / 2**30) if device.type == "cuda" else "-"
    yield f"{loss:.3f}"


def _steps(model: Any, twice: bool, device: torch.device, options: argparse.Namespace) -> tuple[list[float], float]:
    """Seconds of each step, and the loss of the first."""
    model.train()
    if twice:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of its newer name, which older releases lack
            model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=True)
    generator = torch.Generator().manual_seed(0)
    shape = (options.rows, options.length)
    times: list[float] = []
    losses: list[float] = []
    for _ in range(_WARM_UP + options.steps):
        ids = torch.randint(model.config.vocab_size, shape, generator=generator).to(device)
        begin = perf_counter()
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())  # waits for the device
        times.append(perf_counter() - begin)
    return times, losses[0]


def _model(shape: Shape, context: int, attention: str, device: torch.device) -> Any:
    torch.manual_seed(0)
    config = cast("Any", LlamaConfig)(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=context,
        attn_implementation=attention,
    )
    with device:
        return LlamaForCausalLM(config)


if __name__ == "__main__":
    main()
