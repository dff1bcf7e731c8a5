"""Rendering conversations by the model's own chat template (skeleton: final signatures, being filled)."""

from __future__ import annotations

from mesh.engine.base import Chat
from mesh.engine.text import Tokenizer


class ChatRenderer:
    """Turns a Chat into token ids. `template` overrides the tokenizer's own."""

    def __init__(self, tokenizer: Tokenizer, template: str | None = None) -> None:
        raise NotImplementedError

    @property
    def has_template(self) -> bool:
        """Whether chats without a template of their own can be rendered (capability `chat`)."""
        raise NotImplementedError

    @property
    def supports_tools(self) -> bool:
        """Whether the template presents tools (capability `tools`)."""
        raise NotImplementedError

    def text(self, chat: Chat) -> str:
        """The rendered text. Raises invalid_request / unsupported naming messages, tools, …"""
        raise NotImplementedError

    def render(self, chat: Chat) -> list[int]:
        """The token ids of the rendered text (no further special tokens added)."""
        raise NotImplementedError
