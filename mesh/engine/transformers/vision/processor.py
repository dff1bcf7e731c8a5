"""Loading a model's own processor: what turns pictures into tensors and placeholders into tokens.

Image processors exist twice in transformers, on torchvision and on Pillow, and resize a little differently. Always
Pillow's are taken, so that workers answer alike whatever is installed beside them.
"""

from __future__ import annotations

import json
import logging
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import transformers
from transformers import AutoImageProcessor, PretrainedConfig, ProcessorMixin
from transformers.models.auto import modeling_auto, processing_auto

log = logging.getLogger(__name__)

# Where the name of the processor's class may stand, in transformers' order.
_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")


class ProcessorError(ValueError):
    """The model has no processor that can be used; the message is one sentence."""


def sees(config: PretrainedConfig) -> bool:
    """Whether a model is a decoder that is shown pictures."""
    known = config.model_type in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return known and not config.is_encoder_decoder and getattr(config, "vision_config", None) is not None


def find_processor(folder: Path, config: PretrainedConfig, tokenizer: Any) -> ProcessorMixin | None:
    """The processor of a model that sees; None for others, and, said in the log, for those without a usable one.

    A chat template that lies beside the processor and not beside the tokenizer becomes the tokenizer's.
    """
    if not sees(config):
        return None
    try:
        processor = load_processor(folder, config, tokenizer)
    except ProcessorError as error:
        log.warning("the model is served without its sight: %s", error)
        return None
    if not tokenizer.chat_template:
        tokenizer.chat_template = processor.chat_template
    return processor


def load_processor(folder: Path, config: PretrainedConfig, tokenizer: Any) -> ProcessorMixin:
    """The processor of a model folder, with a tokenizer of its own: some add tokens to it. Raises ProcessorError."""
    kind = _kind(folder, config)
    try:
        settings, arguments = kind.get_processor_dict(folder)
        parts = [_part(name, folder, tokenizer) for name in kind.get_attributes()]
        return _without_video(kind).from_args_and_dict(parts, settings, **arguments)
    except ProcessorError:
        raise
    except Exception as error:  # any exception is about the files, or about a package that is missing
        raise ProcessorError(f"its {kind.__name__} cannot be loaded: {' '.join(str(error).split())[:300]}") from error


def _kind(folder: Path, config: PretrainedConfig) -> Any:
    name = None
    for file in (folder / file for file in _FILES):
        if name is None and file.is_file():
            name = json.loads(file.read_bytes()).get("processor_class")
    known = cast("dict[str, str | None]", cast("Any", processing_auto).PROCESSOR_MAPPING_NAMES)
    name = name or known.get(config.model_type)
    kind = getattr(transformers, name, None) if name else None
    if kind is None:
        raise ProcessorError(f"its processor {name} is not known to transformers" if name else "it has no processor")
    return kind


def _part(name: str, folder: Path, tokenizer: Any) -> Any:
    match name:
        case "tokenizer":
            return deepcopy(tokenizer)
        case "image_processor":
            auto: Any = AutoImageProcessor
            return auto.from_pretrained(folder, backend="pil")
        case "video_processor":
            return None
        case _:
            raise ProcessorError(f"its processor has a part '{name}', which is not supported")


def _without_video(kind: Any) -> Any:
    """The class, content to have no video processor: those need torchvision, and nobody sends videos here."""

    def check(self: Any, argument_name: str, argument: Any) -> Any:
        return None if argument is None else kind.check_argument_for_proper_class(self, argument_name, argument)

    return type(kind.__name__, (kind,), {"check_argument_for_proper_class": check})
