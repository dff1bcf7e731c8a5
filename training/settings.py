"""What the training commands can be told besides the trainers' own arguments, and their help.

Nothing here imports transformers, which takes seconds: training/parsing.py puts these settings on its arguments.
"""

from __future__ import annotations

import dataclasses
from argparse import SUPPRESS, BooleanOptionalAction
from collections.abc import Iterator
from typing import Any, Final, Literal, cast, get_args, get_origin, get_type_hints

from mesh.config import Parser, Setting, told

ENV_PREFIX: Final = "MESH_TRAIN_"
SHORT: Final = {
    "model": "model_name_or_path",
    "data": "data_path",
    "eval_data": "eval_data_path",
    "output": "output_dir",
}
"""Names that people use, and that help shows, for what is called otherwise."""


class BadSettings(ValueError):
    """Settings that cannot be used; the message is one sentence that names them."""


def setting(default: Any, help: str) -> Any:
    """Declare a setting: its default and its help text."""
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(cast("list[str]", default)), metadata={"help": help})
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass
class ModelSettings:
    """The model, and what of it is trained."""

    model_name_or_path: str = setting("", "Model to begin with: a folder, its name on the hub, or mesh-demo.")
    model_revision: str | None = setting(None, "Branch, tag or commit of a model on the hub.")
    trust_remote_code: bool = setting(False, "Run Python code that comes with the model.")
    chat_template: str | None = setting(
        None,
        "Chat template by name (`mesh templates` lists them), file or jinja text. Default: the tokenizer's own, else a "
        "built-in one that the model's name calls for. It is saved with the model.",
    )
    add_special_tokens: list[str] = setting([], "Special tokens that the model gets, such as a chat template needs.")
    add_tokens: list[str] = setting([], "Pieces of text that the tokenizer gets, such as characters that it lacks.")
    model_max_length: int = setting(2048, "Longest conversation in tokens; of longer ones the beginning is kept.")
    condense_rope: bool = setting(
        True, "Stretch the positions of a model whose own context is shorter than model_max_length (LongChat)."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", "Of the weights. auto: float32 for what is trained whole, as the optimizer needs it; else as computed."
    )
    attn_implementation: str | None = setting(
        None, "sdpa, eager or flash_attention_2. Default: flash_attention_2 if it is installed and can be used."
    )
    lora: bool = setting(False, "Train a LoRA adapter and leave the model as it is.")
    qlora: bool = setting(False, "LoRA on a model quantised to 4 bits (NF4, quantised twice) by bitsandbytes.")
    adapter: str | None = setting(None, "A LoRA adapter to train on, instead of a new one.")
    lora_r: int = setting(8, "Rank of the adapter.")
    lora_alpha: int = setting(16, "Scale of the adapter, before it is divided by the rank.")
    lora_dropout: float = setting(0.05, "Dropout before the adapter.")
    lora_target_modules: list[str] = setting(
        ["all-linear"], "Modules that get an adapter; all-linear: all but the head."
    )
    lora_bias: Literal["none", "all", "lora_only"] = setting("none", "Which biases are trained as well.")
    fsdp_transformer_layer_cls_to_wrap: str | None = setting(
        None, "Classes of layers that FSDP wraps, separated by commas. Default: those that the model names."
    )

    @property
    def adapts(self) -> bool:
        """Whether an adapter is trained rather than the model."""
        return self.lora or self.qlora or self.adapter is not None


_USUAL: Final = (
    ("output_dir", "path", None, "Folder for what is trained, its checkpoints and the report."),
    ("num_train_epochs", "number", 3.0, "How often all the data is gone through."),
    ("max_steps", "whole number", -1, "Steps to train; at -1 epochs count."),
    ("per_device_train_batch_size", "whole number", 8, "Rows in a step of each device."),
    ("gradient_accumulation_steps", "whole number", 1, "Batches of each device that make one step of the optimizer."),
    ("learning_rate", "number", 5e-5, "Highest learning rate."),
    ("lr_scheduler_type", "text", "linear", "Course of the learning rate."),
    ("warmup_steps", "number", 0, "Steps, or if below 1 the share of all, in which the learning rate rises."),
    ("weight_decay", "number", 0.0, "Weight decay of the optimizer."),
    ("optim", "text", "adamw_torch_fused", "Optimizer."),
    ("bf16", "yes or no", False, "Compute in bfloat16."),
    ("fp16", "yes or no", False, "Compute in float16."),
    ("activation_checkpointing", "yes or no", None, "Compute activations twice instead of keeping them: less memory."),
    ("fsdp", "text", None, "Shard weights over the processes: full_shard or shard_grad_op, auto_wrap, offload."),
    ("fsdp_config", "text", None, "More about FSDP, as JSON or a file with it."),
    ("deepspeed", "text", None, "DeepSpeed's settings, as JSON or a file with it."),
    ("torch_compile", "yes or no", False, "Compile the model first."),
    ("use_cpu", "yes or no", False, "Train on the CPU where there is a GPU, too."),
    ("logging_steps", "number", 500, "Steps between two lines of progress."),
    ("report_to", "text", "none", "Who gets the progress, too: tensorboard, wandb, mlflow, trackio."),
    ("run_name", "text", None, "Name of the run there."),
    ("eval_strategy", "text", "no", "When what is held out is evaluated: no, steps or epoch."),
    ("eval_steps", "number", None, "Steps between two evaluations; below 1 a share of all steps."),
    ("per_device_eval_batch_size", "whole number", 8, "Rows that each device evaluates at a time."),
    ("save_strategy", "text", "steps", "When a checkpoint is saved: no, steps, epoch or best."),
    ("save_steps", "number", 500, "Steps between two checkpoints; below 1 a share of all steps."),
    ("save_total_limit", "whole number", None, "Checkpoints that are kept; older ones are deleted."),
    ("seed", "whole number", 42, "Seed of all random numbers."),
)
"""The trainer's own settings that --help shows: name, values, default, meaning."""

_EPILOG: Final = (
    "--help-all shows all settings of transformers' Trainer; docs/training.md says how they belong together."
)


def listed(options: type[Any]) -> list[Setting]:
    """A command's settings: its own, then the trainer's usual ones."""
    own = list(_own(options))
    names = {each.field for each in own} | {field.name for field in dataclasses.fields(options)}
    usual = [_listed(name, values, default, help) for name, values, default, help in _USUAL if name not in names]
    return [*own, *usual]


def _own(options: type[Any]) -> Iterator[Setting]:
    hints = get_type_hints(options)
    for field in dataclasses.fields(options):
        if field.metadata["help"] != SUPPRESS:
            hint = _first(hints[field.name])
            choices = get_args(hint) if get_origin(hint) is Literal else ()
            yield _listed(field.name, _values(hint), _default(field), field.metadata["help"], choices)


def _listed(name: str, values: str, default: Any, help: str, choices: tuple[str, ...] = ()) -> Setting:
    shown = next((short for short, field in SHORT.items() if field == name), name)
    return Setting(name, "--" + shown.replace("_", "-"), ENV_PREFIX + shown.upper(), values, default, help, choices)


def _first(hint: Any) -> Any:
    """The first of several types."""
    return hint if get_origin(hint) in (None, Literal, list) else _first(get_args(hint)[0])


def _values(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(get_args(hint))
    return {bool: "yes or no", int: "whole number", float: "number", list[str]: "text, several"}.get(hint, "text")


def _default(field: dataclasses.Field[Any]) -> Any:
    given = (
        field.default if field.default is not dataclasses.MISSING else " ".join(cast("Any", field).default_factory())
    )
    return None if given == "" else given


def print_help(options: type[Any], prog: str) -> None:
    """Our settings and the trainer's usual ones."""
    usage = f"{prog} [--recipe NAME|FILE] --model MODEL --data FILE... --output FOLDER [--SETTING VALUE]..."
    parser = Parser(prog=prog, usage=usage, description=options.__doc__, epilog=_EPILOG, add_help=False)
    parser.shown = listed(options)
    for each in parser.shown:
        if each.values == "yes or no":
            parser.add_argument(each.flag, action=BooleanOptionalAction, help=told(each))
        else:
            parser.add_argument(each.flag, metavar=each.flag[2:].replace("-", "_").upper(), help=told(each))
    parser.print_help()
