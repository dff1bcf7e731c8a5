"""Flags of the remote engine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mesh.config import ConfigError, option
from mesh.worker.flags import Flags

# Names and meanings that vLLM and this mesh have in common; a server that does not know one may drop it unseen.
_EXTENSIONS = Literal[
    "top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "stop_token_ids", "cache_salt"
]
# Where providers' own tools look for a key.
_KEY_VARIABLES = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY", "google": "GEMINI_API_KEY"}


@dataclass(frozen=True)
class RemoteFlags(Flags):
    """Which provider serves the model, and with which key."""

    engines = frozenset({"remote"})

    provider: Literal["openai", "anthropic", "google"] = option(
        "openai", "Remote: whose API is spoken: openai (and all that are compatible with it), anthropic or google."
    )
    remote_model: str | None = option(None, "Remote: the provider's name of the model.")
    base_url: str | None = option(
        None, "Remote: address of the API with its version, as http://host:8000/v1. Default: the provider's own."
    )
    api_key_file: Path | None = option(None, "Remote: file that holds the key and nothing else.")
    api_key_env: str | None = option(
        None,
        "Remote: environment variable that holds the key. Default: OPENAI_API_KEY, ANTHROPIC_API_KEY or "
        "GEMINI_API_KEY; with --base-url none, as a key should reach nobody but whom it was meant for.",
    )
    provider_timeout: float = option(
        60.0, "Remote: seconds without news of an answer after which the provider is given up.", low=0.1
    )
    answer_tokens: int = option(
        4096, "Remote: most tokens of an answer whose request sets no limit, where the provider demands one.", low=1
    )
    server_option: tuple[_EXTENSIONS, ...] = option(
        (),
        "Remote, openai: an option beyond OpenAI's API that the server is known to honour: top_k, min_p, "
        "repetition_penalty, min_tokens, ignore_eos, stop_token_ids or cache_salt; may be repeated.",
    )

    def __post_init__(self) -> None:
        if self.base_url is not None and not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"--base-url must begin with http:// or https://, not '{self.base_url}'")
        if self.api_key_file is not None and self.api_key_env is not None:
            raise ConfigError("--api-key-file and --api-key-env exclude each other")
        if self.server_option and self.provider != "openai":
            raise ConfigError(f"--server-option has no effect with --provider {self.provider}")
        super().__post_init__()

    def api_key(self) -> str | None:
        """The key, or None for a server that needs none; raises ConfigError, whose message does not hold it."""
        if self.api_key_file is not None:
            try:
                return _checked(self.api_key_file.read_text("utf-8"), f"the file {self.api_key_file}")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(
                    f"--api-key-file {self.api_key_file} cannot be read: {type(error).__name__}"
                ) from None
        variable = self.api_key_env or (None if self.base_url else _KEY_VARIABLES[self.provider])
        if variable is None:
            return None
        if variable not in os.environ:
            raise ConfigError(f"no API key: set {variable}, or give --api-key-file or --api-key-env")
        return _checked(os.environ[variable], f"the variable {variable}")


def _checked(text: str, where: str) -> str:
    """A key that can stand in a header."""
    key = text.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{where} must hold an API key and nothing else: printable ASCII without spaces")
    return key
