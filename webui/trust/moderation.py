"""Prompts and answers that the arena's keepers do not want: asked of a moderation endpoint, or by a list of words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from openai import AsyncOpenAI, OpenAIError


class ModerationUnavailable(Exception):
    """The endpoint gave no answer; the message is for operators."""


class Moderation(Protocol):
    """Looks at texts."""

    async def flagged(self, texts: Sequence[str]) -> list[str]:
        """For each text why it is unwanted, or nothing. Raises ModerationUnavailable."""
        ...


class WordList:
    """Texts with one of these words or phrases, whatever their case, are unwanted."""

    def __init__(self, words: Iterable[str]) -> None:
        listed = [word.strip() for word in words]
        listed = [re.escape(word) for word in listed if word and not word.startswith("#")]
        self._pattern = re.compile(rf"(?<!\w)(?:{'|'.join(listed)})(?!\w)", re.IGNORECASE) if listed else None

    @classmethod
    def read(cls, path: Path) -> WordList:
        """A file with one word or phrase a line; `#` begins a comment."""
        return cls(path.read_text().splitlines())

    async def flagged(self, texts: Sequence[str]) -> list[str]:
        """`word list` for each text with such a word."""
        return ["word list" if self._pattern and self._pattern.search(text) else "" for text in texts]


class ModerationEndpoint:
    """An endpoint that speaks OpenAI's `/v1/moderations`."""

    def __init__(self, base_url: str, api_key: str, model: str, *, timeout: float = 10.0) -> None:
        self._client = AsyncOpenAI(base_url=base_url, api_key=api_key, timeout=timeout, max_retries=1)
        self._model = model

    async def flagged(self, texts: Sequence[str]) -> list[str]:
        """The names of the endpoint's categories that hold for each text, comma separated."""
        try:
            answer = await self._client.moderations.create(input=list(texts), model=self._model)
        except OpenAIError as error:
            raise ModerationUnavailable(f"the moderation endpoint gave no answer: {error}") from error
        if len(answer.results) != len(texts):
            raise ModerationUnavailable(f"{len(texts)} texts were asked about, {len(answer.results)} answered")
        return [_reason(result.flagged, result.categories.model_dump()) for result in answer.results]

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def _reason(flagged: bool, categories: dict[str, object]) -> str:
    if not flagged:
        return ""
    return ", ".join(name for name, holds in categories.items() if holds) or "flagged"
