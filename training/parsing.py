"""Reads settings of the training commands: transformers' arguments and ours, from a recipe, the environment and flags.

    @dataclass
    class SftSettings(SftOptions, TrainingArguments): ...

    settings = parse_settings(SftSettings, argv, prog="mesh train sft")

Names are those of transformers' Trainer, in either spelling (`--learning-rate`, `--learning_rate`), and what other
trainers call them. A flag wins over MESH_TRAIN_LEARNING_RATE, that over the recipe, the recipe over the default. What
has a name elsewhere but no meaning here is refused, or explained and left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar, cast, get_args, get_type_hints

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from mesh.config import fail
from training.settings import ENV_PREFIX, SHORT, BadSettings

RECIPES: Final = Path(__file__).parent / "recipes"

RENAMED: Final[Mapping[str, str]] = {
    **SHORT,
    "train_file": "data_path",
    "validation_file": "eval_data_path",
    "max_length": "model_max_length",
    "max_seq_length": "model_max_length",
    "max_seq_len": "model_max_length",
    "evaluation_strategy": "eval_strategy",
    "warmup_ratio": "warmup_steps",
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
    "group_by_length": "train_sampling_strategy",
    "torch_dtype": "dtype",
    "q_lora": "qlora",
    "use_peft": "lora",
    "lora_rank": "lora_r",
    "conv_template": "chat_template",
    "flash_attn": "attn_implementation",
    "last_response_loss": "answers",
    "num_data": "max_samples",
    "lora_weight_path": "adapter",
    "preprocessing_num_workers": "num_proc",
    "dataset_num_proc": "num_proc",
}
"""What other trainers call our settings."""
_MEANS: Final[Mapping[str, Mapping[str, str]]] = {
    "flash_attn": {"true": "flash_attention_2", "false": "sdpa"},
    "group_by_length": {"true": "group_by_length", "false": "random"},
    "last_response_loss": {"true": "last", "false": "all"},
}
"""Switches elsewhere whose setting here has names for its values."""
EXPLAINED: Final[Mapping[str, str]] = {
    "lazy_preprocess": "conversations are tokenised once and then read from the disk; nothing is left to be lazy about",
    "padding_side": "rows are filled up at their ends, and nothing sees what they are filled with",
    "efficient_loss": "the loss is always that of the answers alone",
    "do_train": "the command trains",
    "do_eval": "what --eval-data or --eval-ratio names is evaluated on, on the way as --eval-strategy says",
    "overwrite_output_dir": "use --resume-from-checkpoint none to begin again",
}
"""Flags elsewhere that ask for what is so anyway: said once, then left out."""
REFUSED: Final[Mapping[str, str]] = {
    "cache_dir": "set HF_HUB_CACHE, which all libraries of the hub read",
    "preprocessed_path": "tokens are made anew for each run, from --data-path",
    "split_example_loss": "use --answers last for the last answer alone; all answers have the same weight per token",
    "fp16_opt_level": "it was a setting of Apex; use --fp16 or --bf16",
    "use_legacy_prediction_loop": "transformers has one loop",
    "logging_dir": "set TENSORBOARD_LOGGING_DIR, which transformers reads",
    "do_predict": "nothing is predicted; serve the model and ask it",
    "sharded_ddp": "fairscale is gone; use --fsdp",
}
"""Flags elsewhere that cannot be honoured, and what to do."""

S = TypeVar("S", bound=TrainingArguments)
_Words = dict[str, list[str]]
"""Values of settings, by name, as they would stand on a command line."""


def parse_settings(cls: type[S], argv: Sequence[str], *, prog: str, environ: Mapping[str, str] = os.environ) -> S:
    """Build `cls`, or end the process with exit code 2 and one sentence."""
    try:
        return _built(cls, argv, prog, environ)
    except (BadSettings, ValueError, ImportError, OSError) as error:
        fail(prog, " ".join(str(error).split()))


def _built(cls: type[S], argv: Sequence[str], prog: str, environ: Mapping[str, str]) -> S:
    parser = _parser(cls, prog)
    if "--help-all" in argv:
        _print_help(parser, cls)
    given = dict(_flags(argv))
    words = {**_recipe(given.pop("recipe", [])), **dict(_environment(environ, cls)), **given}
    known = {field.name for field in dataclasses.fields(cls)}
    for name in words:
        if name not in known:
            raise BadSettings(f"unknown setting '{name}'{_closest(name, known)}")
    _translate_fsdp(words)
    if not torch.accelerator.is_available():
        words.setdefault("use_cpu", ["true"])  # else each of several processes takes itself for the only one
    hints = get_type_hints(cls)
    line = [word for name, values in words.items() for word in (f"--{name}", *(values or _alone(hints[name])))]
    (settings,) = parser.parse_args_into_dataclasses(args=line, look_for_args_file=False)
    return cast("S", settings)


def _alone(hint: Any) -> list[str]:
    """What a flag without a value means."""
    return ["true"] if hint is bool or bool in get_args(hint) else []


def _flags(argv: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The settings on a command line, by our names for them."""
    found: list[tuple[str, list[str]]] = []
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found.append((name.replace("-", "_"), [value] if equals else []))
        elif not found:
            raise BadSettings(f"'{word}' belongs to no flag")
        else:
            found[-1][1].append(word)
    for name, values in found:
        yield from _ours(name, values, f"--{name}")


def _ours(name: str, values: list[str], called: str) -> Iterator[tuple[str, list[str]]]:
    """A setting by our name for it, unless it has none. Raises BadSettings."""
    if name in REFUSED:
        raise BadSettings(f"{called} cannot be used: {REFUSED[name]}")
    if name in EXPLAINED:
        if os.environ.get("RANK", "0") == "0":  # of torchrun's processes one is enough
            sys.stderr.write(f"{called} changes nothing: {EXPLAINED[name]}\n")
        return
    if name.startswith("no_"):
        name, values = name[3:], ["false"]
    if meaning := _MEANS.get(name):
        said = values[0].lower() if values else "true"
        if said not in meaning:
            raise BadSettings(f"{called} must be true or false, not '{said}'")
        values = [meaning[said]]
    yield RENAMED.get(name, name), values


def _recipe(named: list[str]) -> _Words:
    """The settings of a recipe: one of ours by its name, or a YAML file. Raises BadSettings."""
    if not named:
        return {}
    path = RECIPES / f"{named[0]}.yaml"
    if not path.exists():
        path = Path(named[0])
    if not path.exists():
        names = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
        raise BadSettings(f"--recipe is neither a file nor one of {names}: '{named[0]}'")
    try:
        content: object = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise BadSettings(f"{path} is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise BadSettings(f"{path} must hold settings by name")
    words: _Words = {}
    for name, value in cast("dict[str, object]", content).items():
        words.update(_ours(name, list(_texts(value)), f"'{name}' in {path}"))
    return words


def _texts(value: object) -> Iterator[str]:
    """A value of YAML as it would stand on a command line."""
    match value:
        case bool():
            yield str(value).lower()
        case list():
            for item in cast("list[object]", value):
                yield from _texts(item)
        case dict():
            yield json.dumps(value)
        case _:
            yield str(value)


def _environment(environ: Mapping[str, str], cls: type[Any]) -> Iterator[tuple[str, list[str]]]:
    hints = get_type_hints(cls)
    for variable, value in environ.items():
        if variable.startswith(ENV_PREFIX) and value:
            for name, values in _ours(variable[len(ENV_PREFIX) :].lower(), [value], variable):
                if name not in hints:
                    raise BadSettings(f"unknown environment variable {variable}{_closest(name, hints)}")
                yield name, value.split(",") if hints[name] == list[str] else values


_FSDP: Final[Mapping[str, Mapping[str, Any]]] = {
    "full_shard": {"reshard_after_forward": True},
    "shard_grad_op": {"reshard_after_forward": False},
    "offload": {"cpu_offload": True},
    "auto_wrap": {},
    "true": {},
}


def _translate_fsdp(words: _Words) -> None:
    """FSDP's choices and its classes of layers stand in its configuration nowadays. Raises BadSettings."""
    layers = words.get("fsdp_transformer_layer_cls_to_wrap")
    if "fsdp" not in words:
        if layers:
            raise BadSettings("fsdp_transformer_layer_cls_to_wrap needs fsdp, such as --fsdp 'full_shard auto_wrap'")
        return
    config: dict[str, Any] = {}
    for choice in " ".join(words["fsdp"]).replace(",", " ").split():
        if choice.lower() not in _FSDP:
            raise BadSettings(f"fsdp must be of {', '.join(_FSDP)}, not '{choice}'")
        config.update(_FSDP[choice.lower()])
    if layers:
        config["transformer_layer_cls_to_wrap"] = layers[0].split(",")
    if "fsdp_config" not in words and words.get("activation_checkpointing") in ([], ["true"], ["True"]):
        del words["activation_checkpointing"]  # FSDP's own gathers the weights once less
        config["activation_checkpointing"] = True
    words["fsdp"] = []
    if config and "fsdp_config" in words:
        raise BadSettings("fsdp_config says by itself what is sharded: give --fsdp alone, without layers' classes")
    words.setdefault("fsdp_config", [json.dumps(config)])


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadSettings(message)


def _parser(cls: type[Any], prog: str) -> _Parser:
    return _Parser(cast("Any", cls), prog=prog, allow_abbrev=False, add_help=False)


def _print_help(parser: argparse.ArgumentParser, cls: type[Any]) -> NoReturn:
    """Our settings, then all of the trainer's, two hundred together."""
    trainers = {field.name for field in dataclasses.fields(TrainingArguments)}
    for action in parser._actions:  # pyright: ignore[reportPrivateUsage]
        action.option_strings = action.option_strings[-1:]
        action.metavar = action.dest.upper()
    for group in parser._action_groups:  # pyright: ignore[reportPrivateUsage]
        group._group_actions.sort(key=lambda action: action.dest in trainers)  # pyright: ignore[reportPrivateUsage]
    parser.usage = f"{parser.prog} [--SETTING VALUE]..."
    parser.description = cls.__doc__
    parser.print_help()
    raise SystemExit(0)


def _closest(name: str, known: Iterable[str]) -> str:
    match = get_close_matches(name, list(known), n=1)
    return f"; did you mean {match[0]}?" if match else ""
