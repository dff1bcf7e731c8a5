"""LoRA adapters added to their base models' weights, by PEFT."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any, Final, cast

from mesh.config import ConfigError
from training.weights.checkpoint import DTYPES
from training.weights.config import MergeConfig
from training.weights.folders import beside, copy_beside, find, read_json, written

_ADAPTER: Final = "adapter_config.json"
# What an adapter's folder has that is not the model's.
_ITS_OWN: Final = (_ADAPTER, "README.md", "MODEL_CARD.md", "recipe.json")


def merge(config: MergeConfig) -> str:
    """Write a complete model that answers as the base does with the adapter. Returns a sentence on what was done."""
    adapter = find(config.adapter, _ADAPTER)
    named = config.base or str(read_json(adapter / _ADAPTER).get("base_model_name_or_path") or "")
    if not named:
        raise ConfigError(f"'{adapter}' names no base model: give --base")
    base = find(named)
    with written(config.output) as folder:
        copy_beside(base, folder)
        for file in beside(adapter):  # its tokenizer and template, if training has changed them
            if file.name not in _ITS_OWN:
                shutil.copyfile(file, folder / file.name)
        model = _merged(base, adapter, folder, config.dtype)
        model.save_pretrained(folder, max_shard_size=int(config.max_shard_size))
    return f"'{adapter}' and '{base}' are one model in {config.output}"


def _merged(base: Path, adapter: Path, folder: Path, dtype: str | None) -> Any:
    """Base plus adapter in memory, with an embedding as long as the adapter's tokenizer if that has grown."""
    # Both take seconds to import.
    import peft
    import transformers

    transformers.utils.logging.disable_progress_bar()
    quantized = read_json(base / "config.json").get("quantization_config")
    if quantized:
        raise ConfigError(f"'{base}' is quantized: merge into the model that it was made from (--base)")
    model = _class_of(base).from_pretrained(base, dtype="auto" if dtype is None else DTYPES[dtype])
    if (adapter / "tokenizer_config.json").is_file():
        tokens = len(cast(Any, transformers.AutoTokenizer.from_pretrained(folder)))
        if tokens > model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(tokens)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # between PEFT and transformers: nothing for users
            adapted: Any = peft.PeftModel.from_pretrained(model, adapter)
            return adapted.merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"'{adapter}' does not fit '{base}': {' '.join(str(error).split())[:300]}") from error


def _class_of(base: Path) -> Any:
    """The class of transformers that the model's configuration names."""
    import transformers

    names: list[str] = read_json(base / "config.json").get("architectures") or []
    for name in names:
        if found := getattr(transformers, name, None):
            return found
    raise ConfigError(f"transformers has no model '{', '.join(names) or 'without a name'}', which '{base}' is")
