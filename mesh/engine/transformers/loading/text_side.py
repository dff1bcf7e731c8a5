"""What a model's texts are made of: tokenizer, chat template, and ends of turn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoTokenizer

from mesh.engine.chat import NO_STOPS, ChatRenderer
from mesh.engine.text import Tokenizer
from mesh.engine.transformers.loading.bars import Report
from mesh.engine.transformers.loading.checkpoint import find_checkpoint
from mesh.engine.transformers.loading.config import config_in, eos_token_ids_of, first_sentence, source_of
from mesh.engine.transformers.loading.fingerprint import TOKENIZER_FILES, fingerprint, hash_parts
from mesh.engine.transformers.loading.options import LoadOptions
from mesh.engine.transformers.loading.source import lfs_pointer
from mesh.errors import invalid
from mesh.templates import Template
from mesh.templates.choice import choose_template, find_stops


@dataclass(frozen=True)
class TextSide:
    """What a model's texts are made of, for engines that load the weights by themselves."""

    name: str
    folder: Path
    tokenizer: Tokenizer
    chat: ChatRenderer
    eos_token_ids: tuple[int, ...]
    architecture: str
    fingerprint: str


def load_text_side(options: LoadOptions, progress: Report, *, number_format: str) -> TextSide:
    """Find a model and read all but its weights. `number_format` tells engines apart in the fingerprint.

    Raises invalid_request as `load` does.
    """
    folder, gguf = source_of(options).find(progress)
    config = config_in(folder, gguf, options)
    hf_tokenizer = tokenizer_in(folder, gguf, options)
    saved = (folder / "generation_config.json").is_file()
    generation = transformers.GenerationConfig.from_pretrained(folder) if saved else None
    eos_token_ids = eos_token_ids_of(generation, config, hf_tokenizer)
    tokenizer = Tokenizer(hf_tokenizer, eos_token_ids)
    template = template_for(options, hf_tokenizer, names_of(options.path, folder), config.model_type, progress)
    chat = chat_for(options, tokenizer, template)
    progress("computing the fingerprint")
    checkpoint = find_checkpoint(folder, gguf=gguf, allow_pickle=options.allow_pickle)
    return TextSide(
        name=options.name or folder_name(options.path),
        folder=folder,
        tokenizer=tokenizer,
        chat=chat,
        eos_token_ids=eos_token_ids,
        architecture=next(iter(getattr(config, "architectures", None) or [config.model_type])),
        fingerprint=fingerprint(checkpoint, config.to_dict(), chat.facts, number_format),
    )


def load_tokenizer_side(
    options: LoadOptions, progress: Report, *, eos_token_ids: Sequence[int], architecture: str, identity: str
) -> TextSide:
    """The same of a folder with a tokenizer and nothing else; `identity` stands in the fingerprint for the weights."""
    folder = Path(options.path)
    hf_tokenizer = tokenizer_in(folder, None, options)
    tokenizer = Tokenizer(hf_tokenizer, eos_token_ids)
    name = options.name or folder_name(options.path)
    chat = chat_for(options, tokenizer, template_for(options, hf_tokenizer, [name], "", progress))
    files = [file for file in sorted(folder.iterdir()) if file.name in TOKENIZER_FILES]
    parts = [identity, json.dumps(chat.facts, sort_keys=True, default=str), *(file.name for file in files)]
    return TextSide(
        name=name,
        folder=folder,
        tokenizer=tokenizer,
        chat=chat,
        eos_token_ids=tokenizer.eos_token_ids,
        architecture=architecture,
        fingerprint=hash_parts([*(part.encode() for part in parts), *(file.read_bytes() for file in files)]),
    )


def folder_name(path: str) -> str:
    """The served name of a model without one: the last part of its folder or hub name, of a file without its ending."""
    if path.endswith(".gguf"):
        return Path(path).stem
    return Path(path).resolve().name if Path(path).is_dir() else path.rsplit("/", 1)[-1]


def names_of(path: str, folder: Path) -> list[str]:
    """What a model is called: by its path, by the folder of a hub's cache that it is in, by who saved it."""
    cached = [part.rsplit("--", 1)[-1] for part in folder.resolve().parts if part.startswith("models--")]
    # Transformers puts the path that it loads from in the place of this one.
    file = folder / "config.json"
    saved: Any = json.loads(file.read_bytes()).get("_name_or_path") if file.is_file() else None
    return [folder_name(path), *cached, *([saved.rsplit("/", 1)[-1]] if isinstance(saved, str) else [])]


def tokenizer_in(folder: Path, gguf: str | None, options: LoadOptions) -> Any:
    """The tokenizer in a folder, or in a GGUF file there, as transformers has it. Raises invalid_request."""
    # Without any file transformers would make up an empty tokenizer.
    if not gguf and not any(any(folder.glob(pattern)) for pattern in ("token*", "*vocab*", "*.model")):
        raise invalid("path", f"'{folder}' holds no tokenizer (no tokenizer.json, tokenizer.model or vocabulary)")
    place = folder / gguf if gguf else folder
    auto: Any = AutoTokenizer
    arguments = {"gguf_file": gguf} if gguf else {}
    try:
        tokenizer: Any = auto.from_pretrained(folder, trust_remote_code=options.trust_remote_code, **arguments)
    except Exception as error:  # any exception is about the files, whatever its type
        why = lfs_pointer(file for file in folder.iterdir() if file.name in TOKENIZER_FILES) or first_sentence(error)
        raise invalid("path", f"the tokenizer in '{place}' cannot be used: {why}") from error
    if not len(tokenizer):
        raise invalid("path", f"the tokenizer in '{place}' has no vocabulary")
    return tokenizer


def template_for(
    options: LoadOptions, tokenizer: Any, names: list[str], model_type: str, progress: Report
) -> Template | None:
    """The chat template that is asked for, or that fits the model; None if there is none."""
    choice = choose_template(options.chat_template, tokenizer, names, model_type)
    template = choice.template
    progress(f"chat template: {f'{template.name}, ' if template else ''}{choice.reason}")
    return template


def chat_for(options: LoadOptions, tokenizer: Tokenizer, template: Template | None) -> ChatRenderer:
    """What renders conversations with this template."""
    return ChatRenderer(
        tokenizer,
        template.text if template else None,
        stops=find_stops(template, tokenizer.hf) if template else NO_STOPS,
        allow_others=options.allow_chat_templates,
        tool_parser=options.tool_parser,
        reasoning_parser=options.reasoning_parser,
    )
