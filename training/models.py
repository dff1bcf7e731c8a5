"""Models, tokenizers and adapters to train on, as the settings want them."""

from __future__ import annotations

import math
import os
import sys
import warnings
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, cast

import torch
from tokenizers import AddedToken
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
)

from mesh.demo import MODELS, model_path
from mesh.errors import MeshError
from mesh.templates.choice import choose_template, find_stops
from training.settings import BadSettings, ModelSettings
from training.sharding import prepare_deepspeed

_REPORTERS: Final = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}


@dataclass(frozen=True, slots=True)
class Language:
    """How a model reads and writes: its tokenizer, and the chat template (jinja text) with what ends its answers."""

    tokenizer: PreTrainedTokenizerBase
    template: str
    stop_ids: tuple[int, ...]

    @property
    def pad_id(self) -> int:
        """Fills rows up; it is never attended to nor trained on, so that a tokenizer without one may lend another."""
        pad = self.tokenizer.pad_token_id
        return cast("int", self.tokenizer.eos_token_id if pad is None else pad)


def check_packages(settings: ModelSettings, arguments: TrainingArguments) -> None:
    """Raises BadSettings for a setting whose package is not installed."""
    wanted = {
        "qlora": "bitsandbytes" if settings.qlora else None,
        "deepspeed": "deepspeed" if arguments.deepspeed else None,
        "attn_implementation": "flash_attn" if settings.attn_implementation == "flash_attention_2" else None,
    }
    reporters = cast("list[str]", arguments.report_to)
    for name in reporters:
        wanted[f"report_to {name}"] = _REPORTERS.get(name)
    for name, package in wanted.items():
        if package is not None and find_spec(package) is None:
            raise BadSettings(f"{name} cannot be used: the package {package} is not installed")
    if arguments.deepspeed and "LOCAL_RANK" not in os.environ:
        raise BadSettings(
            "--deepspeed needs a launcher, for one process too: torchrun --nproc-per-node 1 -m training.sft"
        )
    if "wandb" in reporters and arguments.process_index == 0:
        _log_in_to_wandb()


def _log_in_to_wandb() -> None:
    """Now, not when the model is loaded: on a terminal it asks for the key. Raises BadSettings without one."""
    wandb: Any = import_module("wandb")
    try:
        wandb.login()  # nothing to do if it is to be offline
    except wandb.errors.UsageError as error:
        raise BadSettings(f"report_to wandb: {error} Or set WANDB_MODE=offline.") from error


def load_config(settings: ModelSettings) -> PretrainedConfig:
    """The model's configuration, with room for `model_max_length`. Raises BadSettings."""
    if not settings.model_name_or_path:
        raise BadSettings("--model is required")
    if settings.model_name_or_path in MODELS:
        settings.model_name_or_path = str(model_path(settings.model_name_or_path))
    loader: Any = AutoConfig
    try:
        config: PretrainedConfig = loader.from_pretrained(settings.model_name_or_path, **_source(settings))
    except (OSError, ValueError) as error:
        raise BadSettings(f"--model cannot be loaded: {error}") from error
    _make_room(config, settings)
    return config


def load_language(settings: ModelSettings, config: PretrainedConfig) -> Language:
    """The tokenizer and the chat template. Raises BadSettings where there is none, or where they do not fit."""
    name = settings.model_name_or_path
    loader: Any = AutoTokenizer
    tokenizer: Any = loader.from_pretrained(name, **_source(settings))
    # As they stand in the text: T5 for one would take the end of a line for a space before it is looked for.
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in settings.add_tokens])
    tokenizer.add_tokens(settings.add_special_tokens, special_tokens=True)
    if tokenizer.eos_token_id is None:
        raise BadSettings(f"the tokenizer of {name} has no token that ends a text (eos_token): no answer would end")
    names = [name, Path(name).name, str(getattr(config, "_name_or_path", ""))]
    try:
        choice = choose_template(settings.chat_template, tokenizer, names, config.model_type)
    except MeshError as error:
        raise BadSettings(error.message) from error
    template = choice.template
    if template is None and not tokenizer.chat_template:
        raise BadSettings(
            f"{name} has no chat template: choose one with --chat-template (`mesh templates` lists the built-in ones)"
        )
    if template is None:
        return Language(tokenizer, tokenizer.get_chat_template(), ())
    known = tokenizer.get_vocab()
    if missing := [token for token in template.tokens if token not in known]:
        raise BadSettings(
            f"the chat template {template.name} needs {', '.join(missing)}, which the tokenizer lacks: "
            "--add-special-tokens"
        )
    return Language(tokenizer, template.text, find_stops(template, tokenizer).token_ids)


def load_model(
    settings: ModelSettings, arguments: TrainingArguments, config: PretrainedConfig, language: Language
) -> PreTrainedModel:
    """The model to train: whole, or with an adapter. Raises BadSettings."""
    prepare_deepspeed(arguments)
    kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model: PreTrainedModel = kind.from_pretrained(
        settings.model_name_or_path,
        **_source(settings),
        config=config,
        dtype=_dtype(settings, arguments),
        attn_implementation=_attention(settings, arguments),
        quantization_config=_quantisation(settings, arguments),
    )
    _grow(model, settings, language)
    _end_answers(model, language)
    return _with_adapter(model, settings, arguments) if settings.adapts else model


def _source(settings: ModelSettings) -> dict[str, Any]:
    return {"revision": settings.model_revision, "trust_remote_code": settings.trust_remote_code}


def _make_room(config: PretrainedConfig, settings: ModelSettings) -> None:
    """Stretch rotary positions over a longer context, all of them by one factor, as LongChat does."""
    own: int | None = getattr(config, "max_position_embeddings", None)
    if own is None or settings.model_max_length <= own:
        return
    rope: Any = getattr(config, "rope_parameters", None)
    problem = f"model_max_length {settings.model_max_length} is more than the model's context of {own} tokens"
    if not settings.condense_rope or not isinstance(rope, dict):
        raise BadSettings(problem)
    if rope.get("rope_type", "default") != "default":
        raise BadSettings(f"{problem}, whose positions are scaled already ({rope['rope_type']})")
    factor = math.ceil(settings.model_max_length / own)
    sys.stderr.write(f"{problem}: its rotary positions are condensed by {factor}\n")
    cast("Any", config).rope_parameters = {**rope, "rope_type": "linear", "factor": float(factor)}
    cast("Any", config).max_position_embeddings = own * factor


def _dtype(settings: ModelSettings, arguments: TrainingArguments) -> torch.dtype:
    if settings.dtype != "auto":
        return getattr(torch, settings.dtype)
    return _compute_dtype(arguments) if settings.adapts else torch.float32


def _compute_dtype(arguments: TrainingArguments) -> torch.dtype:
    return torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else torch.float32


def _attention(settings: ModelSettings, arguments: TrainingArguments) -> str | None:
    if settings.attn_implementation is not None:
        return settings.attn_implementation
    usable = find_spec("flash_attn") is not None and torch.cuda.is_available()
    return "flash_attention_2" if usable and _compute_dtype(arguments) != torch.float32 else None


def _quantisation(settings: ModelSettings, arguments: TrainingArguments) -> Any:
    if not settings.qlora:
        return None
    from transformers import BitsAndBytesConfig

    compute = _compute_dtype(arguments)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        bnb_4bit_quant_storage=compute,  # so that FSDP can shard the quantised weights
    )


def _grow(model: PreTrainedModel, settings: ModelSettings, language: Language) -> None:
    """Room for tokens that were added: they begin as the mean of all others."""
    if not (settings.add_tokens or settings.add_special_tokens):
        return
    if settings.adapts:
        raise BadSettings("tokens can be added only with the embeddings trained, which an adapter leaves as they are")
    embeddings: Any = model.get_input_embeddings()
    if len(language.tokenizer) > embeddings.weight.shape[0]:
        model.resize_token_embeddings(len(language.tokenizer))


def _end_answers(model: PreTrainedModel, language: Language) -> None:
    """Have the saved model stop where the chat template's turns end, wherever it is served."""
    config: Any = model.generation_config
    own: int | list[int] | None = config.eos_token_id
    known = own if isinstance(own, list) else [] if own is None else [own]
    ends = list(dict.fromkeys([*known, cast("int", language.tokenizer.eos_token_id), *language.stop_ids]))
    config.eos_token_id = ends[0] if len(ends) == 1 else ends


def _with_adapter(model: PreTrainedModel, settings: ModelSettings, arguments: TrainingArguments) -> PreTrainedModel:
    import peft

    library: Any = peft
    if settings.qlora:
        model = library.prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=bool(arguments.activation_checkpointing)
        )
    elif arguments.activation_checkpointing:
        model.enable_input_require_grads()  # frozen embeddings give layers an input that nothing is derived from
    if settings.adapter is not None:
        return library.PeftModel.from_pretrained(model, settings.adapter, is_trainable=True)
    targets = settings.lora_target_modules
    config = peft.LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear" if targets == ["all-linear"] else targets,
        bias=settings.lora_bias,
        task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)  # peft asks it
        return library.get_peft_model(model, config)
