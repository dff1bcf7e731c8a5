"""FSDP where accelerate leaves it out without a word: between processes that have CPUs alone."""

from __future__ import annotations

from typing import Any, cast

from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from transformers import Trainer


def shard(trainer: Trainer) -> None:
    """Have a new trainer shard its model as its arguments say, on CPUs too.

    accelerate takes FSDP up for processes with accelerators alone; those with CPUs would train by copies of the whole
    model. torch shards on either, and so does the rest of accelerate once its state says so.
    """
    arguments = trainer.args
    if (
        not arguments.fsdp
        or trainer.is_fsdp_enabled
        or trainer.accelerator.distributed_type != DistributedType.MULTI_CPU
    ):
        return
    plugin = FullyShardedDataParallelPlugin(**cast("dict[str, Any]", arguments.fsdp_plugin_args))
    state: Any = trainer.accelerator.state
    if arguments.mixed_precision != "no":
        plugin.set_mixed_precision(arguments.mixed_precision)
    state.fsdp_plugin = plugin
    state.distributed_type = DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP  # pyright: ignore[reportPrivateUsage]
    trainer.is_fsdp_enabled = True
