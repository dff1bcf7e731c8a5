"""FSDP and DeepSpeed where accelerate leaves them out without a word: between processes that have CPUs alone."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final, cast

from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from transformers import Trainer, TrainingArguments

from training.settings import BadSettings

_GATHER: Final = "stage3_gather_16bit_weights_on_model_save"


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


def prepare_deepspeed(arguments: TrainingArguments) -> None:
    """If DeepSpeed is asked for, have it count all processes, and save weights that it shards as a whole model.

    Called before the model is loaded, since ZeRO 3 shards it then. Raises BadSettings.
    """
    if not arguments.deepspeed:
        return
    if arguments.device.type == "cpu":  # else transformers has done it
        deepspeed: Any = import_module("deepspeed")
        deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    config: dict[str, Any] = cast("Any", arguments).hf_deepspeed_config.config
    zero: dict[str, Any] = config.get("zero_optimization", {})
    if zero.get("stage") == 3 and not zero.setdefault(_GATHER, True):
        raise BadSettings(f"deepspeed: {_GATHER} must be true, else no model is saved that could be served")
