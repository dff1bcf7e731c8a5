"""The one client: any OpenAI-compatible endpoint, with retries, a limit on each wait, and failures that are values."""

from __future__ import annotations

import asyncio
import email.utils
import math
import random
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, cast

import openai
from openai.types.chat import ChatCompletion

from benchmarks.mt_bench.records import Usage
from benchmarks.mt_bench.verdict import split_thinking

_RETRIED: Final = frozenset({408, 409, 425, 429})
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model said. `finish` is the endpoint's finish_reason; `usage` lacks if it told none."""

    text: str
    thinking: str
    finish: str
    usage: Usage | None


@dataclass(frozen=True, slots=True)
class Failed:
    """Why there is no reply."""

    reason: str


@dataclass(frozen=True, slots=True)
class _Again:
    """A failure that may pass. `after`: seconds that the endpoint asked for. `counts`: as an attempt."""

    reason: str
    after: float | None = None
    counts: bool = True


class Endpoint:
    """Close it (`async with`). A request is tried `attempts` times, each with `timeout` seconds.

    Where the endpoint says when to come back (Retry-After), all requests for that model wait so long. What would wait
    longer than `patience` seconds in all fails. A 429 with a time counts as no attempt.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        timeout: float = 600.0,
        attempts: int = 6,
        patience: float = 300.0,
        token_parameter: str = "max_tokens",
        first_pause: float = _FIRST_PAUSE,
    ) -> None:
        self._client = openai.AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0, timeout=timeout)
        self._timeout = timeout
        self._attempts = attempts
        self._patience = patience
        self._token_parameter = token_parameter
        self._first_pause = first_pause
        self._not_before: dict[str, float] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def chat(self, model: str, messages: list[Message], max_tokens: int, **parameters: Any) -> Reply | Failed:
        """One answer to a conversation."""
        body = {self._token_parameter: max_tokens, **parameters}
        attempt, asked = 1, 0.0
        while True:
            await self._wait(model)
            found = await self._once(model, messages, body)
            if not isinstance(found, _Again):
                return found
            asked += found.after or 0.0
            if asked > self._patience:
                limit = f"{self._patience:g} s"
                return Failed(f"{found.reason}; it asks to wait {asked:g} s in all, the limit is {limit}")
            if attempt == self._attempts and found.counts:
                return Failed(f"{found.reason} ({self._attempts} attempts)")
            await self._pause(model, attempt, found.after)
            attempt += found.counts

    def waits(self, model: str) -> float:
        """Seconds for which nothing is sent to that model, as the endpoint asked."""
        return max(self._not_before.get(model, 0.0) - time.monotonic(), 0.0)

    async def _wait(self, model: str) -> None:
        while left := self.waits(model):
            await asyncio.sleep(left)

    async def _pause(self, model: str, attempt: int, after: float | None) -> None:
        if after:
            self._not_before[model] = max(self._not_before.get(model, 0.0), time.monotonic() + after)
            return
        longest = min(self._first_pause * 2 ** (attempt - 1), _LONGEST_PAUSE)
        await asyncio.sleep(longest * (0.5 + random.random() / 2))

    async def _once(self, model: str, messages: list[Message], body: dict[str, Any]) -> Reply | Failed | _Again:
        try:
            async with asyncio.timeout(self._timeout):
                completion: object = await self._client.chat.completions.create(
                    model=model, messages=cast("Any", messages), stream=False, **body
                )
        except (TimeoutError, openai.APITimeoutError):
            return _Again(f"no answer within {self._timeout:g} s")
        except openai.APIStatusError as error:
            return _status(error)
        except openai.APIConnectionError as error:
            return _Again(f"no connection: {error.__cause__ or error}")
        except (openai.OpenAIError, ValueError) as error:
            return _Again(f"not an answer of the API: {_short(str(error))}")
        return _reply(completion)


def _status(error: openai.APIStatusError) -> Failed | _Again:
    body = error.body
    said = str(cast("dict[str, Any]", body).get("message") or "") if isinstance(body, dict) else ""
    reason = f"HTTP {error.status_code}: {_short(said or error.message)}"
    if error.status_code in _RETRIED or error.status_code >= 500:
        after = retry_after(error.response.headers.get("retry-after"))
        # To be told the time of the next request is to queue, not to fail.
        return _Again(reason, after, counts=error.status_code != 429 or not after)
    return Failed(reason)


def retry_after(header: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date; None if there is none that makes sense."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _reply(completion: object) -> Reply | Failed | _Again:
    """Some endpoints answer 200 with what is no completion; the SDK lets it pass."""
    choices = getattr(completion, "choices", None)
    if not isinstance(completion, ChatCompletion) or not choices or getattr(choices[0], "message", None) is None:
        return _Again("not an answer of the API: it has no choices")
    choice = completion.choices[0]
    if choice.message.refusal:
        return Failed(f"refused: {_short(choice.message.refusal)}")
    content = cast("object", choice.message.content)
    if not isinstance(content, str | type(None)):
        return _Again("not an answer of the API: its content is no text")
    extra = choice.message.model_extra or {}
    said = extra.get("reasoning_content") or extra.get("reasoning") or ""
    thinking, text = split_thinking(content or "")
    usage = completion.usage
    return Reply(
        text=text,
        thinking=said if isinstance(said, str) and said else thinking,
        finish=choice.finish_reason or "",
        usage=Usage(usage.prompt_tokens, usage.completion_tokens) if usage else None,
    )


def _short(text: str, limit: int = 300) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
