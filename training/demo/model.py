"""The model: a small Llama, trained on the answers only."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.demo.packing import Rows
from training.demo.tokenizer import BEGIN_ID, CONTEXT, END_ID, PAD_ID

_REPORT_EVERY = 100


@dataclass(frozen=True)
class Size:
    """The shape of a model: heads are 64 wide, and two key-value heads serve all query heads."""

    width: int
    intermediate: int
    layers: int


SIZES = {
    "mesh-demo": Size(width=256, intermediate=512, layers=3),
    "mesh-demo-mini": Size(width=128, intermediate=320, layers=2),
}
"""The models that are shipped, by name. Three times as many weights as the larger one has, trained alike, answered no
more of the examination: what is missing are wordings, not weights."""


@dataclass(frozen=True)
class Schedule:
    """How to train: `steps` of `rows` packed rows. The learning rates, one for matrices and one for the rest, rise
    over `warmup` steps and follow a cosine down to a fiftieth of their peaks."""

    steps: int
    rows: int = 2
    matrix_peak: float = 4e-3
    other_peak: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.05

    def rate(self, step: int) -> float:
        """The share of the peak at this step."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def new_model(vocabulary: int, seed: int, size: Size) -> LlamaForCausalLM:
    """Random weights. Grouped-query attention and tied embeddings, as in the models that people serve."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=size.width,
            intermediate_size=size.intermediate,
            num_hidden_layers=size.layers,
            num_attention_heads=size.width // 64,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=BEGIN_ID,
            eos_token_id=END_ID,
            pad_token_id=PAD_ID,
        )
    )


def train(model: LlamaForCausalLM, rows: Rows, schedule: Schedule, checkpoint: Callable[[int], None]) -> None:
    """Train in place, on the model's device, the rows in their order. `checkpoint(step)` is called after every tenth
    of the steps.

    Only answers count: what users type is not ours to predict, and a head that sees only the answers' tokens saves
    a quarter of the work.
    """
    rows = rows.to(model.device)
    optimizers = _optimizers(model, schedule)
    order = torch.arange(schedule.steps * schedule.rows).view(schedule.steps, schedule.rows) % len(rows)
    started, losses = time.monotonic(), list[torch.Tensor]()
    model.train()
    for step in range(schedule.steps):
        loss = _loss(model, rows, order[step])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, scheduler in optimizers:
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        losses.append(loss.detach())
        if (step + 1) % _REPORT_EVERY == 0:
            _report(step + 1, schedule, torch.stack(losses).mean().item(), time.monotonic() - started)
            losses.clear()
        if (step + 1) % max(1, schedule.steps // 10) == 0:
            checkpoint(step + 1)
    model.eval()


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write weights (bf16), configuration and tokenizer, the way transformers loads them."""
    folder.mkdir(parents=True, exist_ok=True)
    config = GenerationConfig(
        bos_token_id=BEGIN_ID,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
    )
    shipped = LlamaForCausalLM(model.config)
    shipped.load_state_dict({name: weight.cpu() for name, weight in model.state_dict().items()})
    shipped = shipped.bfloat16()
    shipped.generation_config = config
    shipped.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # transformers writes it for its owner alone


def _optimizers(model: LlamaForCausalLM, schedule: Schedule) -> list[tuple[Optimizer, LambdaLR]]:
    """Muon for the matrices of the layers, AdamW for embeddings and norms, each with its learning rate's course.

    After 450 steps of an earlier recipe the loss was 0.51, with AdamW alone 0.59, for a tenth more time per step.
    """
    layers = [weight for weight in model.model.layers.parameters() if weight.dim() == 2]
    known = {id(weight) for weight in layers}
    others = [weight for weight in model.parameters() if id(weight) not in known]
    muon = torch.optim.Muon(
        layers, lr=schedule.matrix_peak, weight_decay=schedule.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(others, lr=schedule.other_peak, betas=(0.9, 0.99), weight_decay=0.0)
    return [(optimizer, LambdaLR(optimizer, schedule.rate)) for optimizer in (muon, adamw)]


def _loss(model: LlamaForCausalLM, rows: Rows, chosen: torch.Tensor) -> torch.Tensor:
    """The weighted mean cross entropy of the answers' tokens in the chosen rows."""
    ids, positions = rows.ids[chosen].long(), rows.positions[chosen].long()
    weights = rows.weights[chosen][:, 1:]
    wanted = weights > 0
    with torch.autocast(model.device.type, dtype=torch.bfloat16):
        hidden = model.model(
            input_ids=ids, position_ids=positions, attention_mask=own_past(positions), use_cache=False
        ).last_hidden_state
        logits = model.lm_head(hidden[:, :-1][wanted])
    losses = cross_entropy(logits.float(), ids[:, 1:][wanted], reduction="none")
    return torch.dot(losses, weights[wanted]) / weights.sum()


def own_past(positions: torch.Tensor) -> torch.Tensor:
    """Which earlier tokens each token sees: those of its own conversation. `[rows, 1, length, length]` bool."""
    conversation = (positions == 0).cumsum(-1)
    same = conversation[:, None, :, None] == conversation[:, None, None, :]
    return same.tril()


def _report(step: int, schedule: Schedule, mean: float, seconds: float) -> None:
    left = seconds / step * (schedule.steps - step) / 60
    sys.stderr.write(f"step {step}/{schedule.steps}  loss {mean:.3f}  {left:.0f} min left\n")
    sys.stderr.flush()
