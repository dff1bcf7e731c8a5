"""The process group of the ranks: what torch needs so that they can add up what each has computed."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from transformers import PreTrainedModel

from mesh.engine.transformers.parallel.place import torchrun_place

# Of the longest wait of one rank for another, which is in a load: one reads its weights from a slower disk, say. A rank
# that is gone is noticed at once (ranks.py), and one that hangs in a step sooner than this.
_LIMIT = timedelta(minutes=30)


def join_group(folder: Path, rank: int, world: int, device: torch.device) -> None:
    """Become rank `rank` of `world`, which meet in a folder of this machine. Blocks until all are there."""
    store = cast("Any", dist).FileStore(str(folder / "store"), world)
    # The name by which transformers finds a rank's device.
    os.environ["LOCAL_RANK"] = str(device.index or 0)
    if device.type != "cpu":
        getattr(torch, device.type).set_device(device)
    backend = dist.get_default_backend_for_device(device)
    # NCCL wants to be told the device; gloo must not be.
    bound = device if device.type == "cuda" else None
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=_LIMIT, device_id=bound)


def leave_group() -> None:
    """Undo `join_group`, if that came about. Without the name, whoever computes here next would be one of many."""
    if torchrun_place() is None:
        os.environ.pop("LOCAL_RANK", None)
    if dist.is_initialized():
        dist.destroy_process_group()


def smallest(value: int, device: torch.device) -> int:
    """The smallest of all ranks' values. Each rank must call this at the same point."""
    number = torch.tensor([value], dtype=torch.int64, device=device)
    dist.all_reduce(number, op=dist.ReduceOp.MIN)
    return int(number.item())


def keep_local_shards(model: PreTrainedModel) -> None:
    """Let linear layers hold their share as a plain tensor.

    transformers wraps it, and unwraps it in each call: a good part of a small step. Shapes are those of the share then.
    """
    from torch.distributed.tensor import DTensor  # takes a while, and most models have no use for it

    for module in model.modules():
        if isinstance(module, nn.Linear):
            for name, parameter in module.named_parameters(recurse=False):
                if isinstance(parameter, DTensor):
                    local: Any = parameter.to_local()
                    setattr(module, name, nn.Parameter(local, requires_grad=False))
