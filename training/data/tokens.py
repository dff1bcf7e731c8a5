"""How many tokens a text is, by a model's tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

from mesh.config import ConfigError

Count = Callable[[str], int]


@cache
def token_counter(name: str) -> Count:
    """Counts tokens, special ones aside. `name`: a folder, a file, or a model of the hub. Raises ConfigError."""
    from tokenizers import Tokenizer

    path = Path(name)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not path.exists():
        return _from_hub(name)
    if not file.exists():
        return _by_transformers(name)
    try:
        tokenizer = cast("Any", Tokenizer).from_file(str(file))
    except Exception as error:  # the library raises no kind of its own
        raise ConfigError(f"--tokenizer {name}: {error}") from None
    return _counter(tokenizer)


def _from_hub(name: str) -> Count:
    from tokenizers import Tokenizer

    try:
        return _counter(cast("Any", Tokenizer).from_pretrained(name))
    except Exception as error:
        raise ConfigError(f"--tokenizer {name}: is no folder or file, and the hub did not give it: {error}") from None


def _counter(tokenizer: Any) -> Count:
    tokenizer.no_truncation()
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _by_transformers(name: str) -> Count:
    """Older checkpoints have a SentencePiece model alone, which transformers reads."""
    try:
        from transformers import AutoTokenizer

        tokenizer: Any = cast("Any", AutoTokenizer).from_pretrained(name)
    except (ImportError, OSError, ValueError) as error:
        raise ConfigError(f"--tokenizer {name}: no tokenizer.json, and transformers says: {error}") from None
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))
