"""What the remote engine is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ProviderName = Literal["openai", "anthropic", "google"]


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """Where the model is and how much of it may be used at once.

    `name` is the served name, `model` the provider's. `base_url` includes the version (…/v1); None is the provider's
    own. `timeout` is in seconds of silence. `answer_tokens` is sent where a provider demands a limit and the request
    has none. `extensions` are sampling options beyond the provider's own API that the server is known to honour.
    """

    name: str
    model: str
    provider: ProviderName = "openai"
    base_url: str | None = None
    key: str | None = None
    timeout: float = 60.0
    context_length: int | None = None
    answer_tokens: int = 4096
    extensions: frozenset[str] = frozenset()
    slots: int = 64
    max_waiting: int = 1024
