"""A model's configuration: found, read, and what follows from it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, cast

import transformers
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto import modeling_auto

from mesh.engine.transformers.loading.bars import Report
from mesh.engine.transformers.loading.options import LoadOptions
from mesh.engine.transformers.loading.source import Source
from mesh.errors import MeshError, invalid

_DEFAULT_CONTEXT: Final = 2048


def read_config(options: LoadOptions, progress: Report) -> PretrainedConfig:
    """The configuration of a model, which is downloaded if need be. Raises invalid_request as `load` does."""
    folder, gguf = source_of(options).find(progress)
    return config_in(folder, gguf, options)


def source_of(options: LoadOptions) -> Source:
    """Where the model is."""
    return Source(
        options.path,
        hub=options.hub,
        revision=options.revision,
        gguf=options.gguf_file,
        with_code=options.trust_remote_code,
        allow_pickle=options.allow_pickle,
    )


def config_in(folder: Path, gguf: str | None, options: LoadOptions) -> PretrainedConfig:
    """The configuration in a folder, or in a GGUF file there. Raises invalid_request."""
    file = folder / (gguf or "config.json")
    raw = {} if gguf else _raw_config(file)
    kind = raw.get("model_type")
    auto: Any = AutoConfig
    arguments = {"gguf_file": gguf} if gguf else {}
    try:
        return auto.from_pretrained(folder, trust_remote_code=options.trust_remote_code, **arguments)
    except Exception as error:  # any exception is about the file, whatever its type
        reason = (
            f"model type '{kind}' is not known to transformers {transformers.__version__}; "
            + ("its own code runs with --trust-remote-code" if raw.get("auto_map") else "a newer one may know it")
            if not gguf and kind not in transformers.CONFIG_MAPPING
            else first_sentence(error)
        )
        raise invalid("path", f"'{file}' cannot be used: {reason}") from error


def _raw_config(file: Path) -> dict[str, Any]:
    try:
        raw: object = json.loads(file.read_bytes())
    except ValueError as error:
        raise invalid("path", f"'{file}' is not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise invalid("path", f"'{file}' is not a JSON object")
    return cast("dict[str, Any]", raw)


def architecture_of(config: PretrainedConfig) -> str:
    """The class whose weights these are, "" if that is not said."""
    return next(iter(config.architectures or ()), "")


def is_headless(config: PretrainedConfig) -> bool:
    """Whether the weights are those of a model without a head for generation: an encoder, or the body of a decoder."""
    name = architecture_of(config)
    return name.endswith(("Model", "ForMaskedLM")) and not name.endswith("LMHeadModel")


def classifies(config: PretrainedConfig) -> bool:
    """Whether the weights have a head for classes of texts."""
    return architecture_of(config).endswith("ForSequenceClassification")


def generates(config: PretrainedConfig) -> bool:
    """Whether a model answers with text, and not with vectors or classes."""
    return not (is_headless(config) or classifies(config))


def is_encoder(config: PretrainedConfig) -> bool:
    """Bert and its kin are decoders only if their configuration says so; else each token sees the ones after it."""
    both = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys() & modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return config.model_type in both and not (getattr(config, "is_decoder", False) or getattr(config, "causal", False))


def context_length_of(options: LoadOptions, config: PretrainedConfig) -> int:
    """The model's own, or a smaller one that is asked for. Raises invalid_request."""
    text_config = config.get_text_config(decoder=True)
    names = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length")
    found = (getattr(text_config, name, None) for name in names)
    own = next((value for value in found if isinstance(value, int) and value > 0), None)
    wanted = options.context_length
    if wanted is None:
        return own or _DEFAULT_CONTEXT
    if wanted < 1 or (own is not None and wanted > own):
        limit = f"between 1 and the model's own {own}" if own else "at least 1"
        raise invalid("context_length", f"'context_length' must be {limit}, not {wanted}")
    return wanted


def eos_token_ids_of(generation: object, config: PretrainedConfig, tokenizer: Any) -> tuple[int, ...]:
    """Ends of turn: those of the generation settings (else of the configuration), and the tokenizer's own."""
    given: Any = getattr(generation, "eos_token_id", None)
    if given is None:
        given = getattr(config.get_text_config(decoder=True), "eos_token_id", None)
    listed: Iterable[Any] = cast(list[Any], given) if isinstance(given, list) else [given]
    ids = [*listed, tokenizer.eos_token_id]
    return tuple(dict.fromkeys(token_id for token_id in ids if isinstance(token_id, int) and token_id >= 0))


def first_sentence(error: Exception) -> str:
    """Why a library could not do something, short enough for one of our sentences."""
    if isinstance(error, MeshError):
        return error.message
    text = " ".join(str(error).split())
    return re.split(r"(?<=[a-z'\"\)])\. ", text, maxsplit=1)[0][:300] or type(error).__name__
