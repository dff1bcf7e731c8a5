"""The linear layers of a model on a CPU, and how others take their place."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

log = logging.getLogger(__name__)

# Smaller layers gain nothing.
_LEAST_WEIGHTS = 1 << 14


class SealedLinear(nn.Module):
    """A linear layer without its weight at hand: code that reads shape or type is served, code that computes fails."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self._dtype = weight.dtype

    @property
    def weight(self) -> torch.Tensor:
        """The weight's shape and type, without its values."""
        return torch.empty(self.out_features, self.in_features, dtype=self._dtype, device="meta")


class _Trial(SealedLinear):
    """Computes with the plain weight, to see whether the model's code can do without looking at it."""

    def __init__(self, plain: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        self._plain = [plain]  # in a list: not a submodule

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the plain layer."""
        return self._plain[0](x)


@dataclass(slots=True)
class Place:
    """Where a linear layer sits, and its weight [out, in]."""

    parent: nn.Module
    name: str
    plain: nn.Module
    weight: torch.Tensor
    bias: torch.Tensor | None

    def put(self, module: nn.Module) -> None:
        """Put a module there."""
        setattr(self.parent, self.name, module)

    def replace(self, module: SealedLinear) -> None:
        """Put a module there for good. The plain weight goes at once: there need not be room for all of them twice."""
        self.put(module)
        self.plain, self.weight = module, module.weight


def linear_layers(model: PreTrainedModel) -> list[Place]:
    """The linear layers that are worth replacing."""
    return list(_linear_layers(model))


def _linear_layers(model: PreTrainedModel) -> Generator[Place]:
    dtype = model.dtype
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            # Exactly these, with their own weight and forward: a subclass, or what quantized checkpoints and accelerate
            # make of a layer, may do more than multiply.
            if "forward" in vars(child) or not isinstance(getattr(child, "weight", None), torch.Tensor):
                continue
            if type(child) is nn.Linear:
                weight = child.weight.detach()
            elif type(child) is Conv1D:
                weight = child.weight.detach().t()
            else:
                continue
            if weight.numel() >= _LEAST_WEIGHTS and weight.dtype == dtype:
                bias = cast("torch.Tensor | None", child.bias)
                yield Place(parent, name, child, weight, None if bias is None else bias.detach())


def weights_unread(model: PreTrainedModel, places: Sequence[Place], vocab_size: int) -> bool:
    """Whether the model's own code leaves the weights of its linear layers alone."""
    expected = output_of(model, vocab_size)
    try:
        for place in places:
            place.put(_Trial(place.plain, place.weight, place.bias))
        return torch.equal(output_of(model, vocab_size), expected)
    except Exception as error:
        log.info("linear layers stay as they are, because the model reads their weights: %s", error)
        return False
    finally:
        for place in places:
            place.put(place.plain)


def output_of(model: PreTrainedModel, vocab_size: int) -> torch.Tensor:
    """Logits for a few tokens, or the hidden states of a model without a head."""
    ids = torch.tensor([[(17 + 7919 * place) % vocab_size for place in range(5)]])
    cached = "use_cache" in inspect.signature(model.forward).parameters
    output = cast("Callable[..., Any]", model)(input_ids=ids, **({"use_cache": False} if cached else {}))
    return output.logits if hasattr(output, "logits") else output.last_hidden_state
