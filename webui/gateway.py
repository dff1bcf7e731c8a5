"""The mesh as the pages see it: its models and their answers, by the OpenAI SDK."""

from __future__ import annotations

import asyncio
import logging
import time
from base64 import b64encode
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, cast

import httpx2
import msgspec
import openai
from openai import AsyncAPIResponse

from mesh.log import kv
from webui.battle import Exchange
from webui.chunks import Chunks, Usage
from webui.records import Answer, Finish, Picture

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 5.0
# Between two pieces of an answer. The gateway holds a request for 30 s when no worker is there.
_SILENCE_SECONDS = 120.0
# The list of models is asked for anew after so long.
_FRESH_SECONDS = 3.0
_KNOWN: tuple[Finish, ...] = ("stop", "length", "content_filter", "tool_calls")
GONE = "gateway_unreachable"


class GatewayError(Exception):
    """The gateway refused, broke or is not there; `code` is its code, or GONE."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that answers chats; `vision`: it takes images too."""

    name: str
    vision: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """More of an answer, or with `answer` its end: the text is in the pieces, the rest in the answer."""

    text: str = ""
    reasoning: str = ""
    answer: Answer | None = None


def api_url(gateway: str) -> str:
    """Where the gateway's API is, whether its address was given with the /v1 that other clients want or without."""
    return f"{gateway.rstrip('/').removesuffix('/v1')}/v1"


class Gateway:
    """A client of one gateway. Close it."""

    def __init__(self, url: str, api_key: str, on_models: Callable[[list[str]], None] = lambda _: None) -> None:
        """`on_models` hears the names whenever there are others."""
        timeout = openai.Timeout(_SILENCE_SECONDS, connect=_CONNECT_SECONDS)
        self._client = openai.AsyncOpenAI(base_url=api_url(url), api_key=api_key, max_retries=0, timeout=timeout)
        self._failing = False
        self._on_models = on_models
        self._models: tuple[ServedModel, ...] = ()
        self._asked = float("-inf")
        self._asking = asyncio.Lock()

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.close()

    async def models(self) -> tuple[ServedModel, ...]:
        """The models that answer chats, by name, at most a few seconds old. Raises GatewayError."""
        async with self._asking:
            if time.monotonic() - self._asked >= _FRESH_SECONDS:
                try:
                    listed = (await self._client.models.list(timeout=_CONNECT_SECONDS)).data
                except openai.OpenAIError as error:
                    raise self._unlisted(_explained(error)) from error
                self._failing = False
                found = tuple(sorted(filter(None, map(_served, listed)), key=lambda model: model.name))
                if found != self._models:
                    self._on_models([model.name for model in found])
                self._models = found
                self._asked = time.monotonic()
        return self._models

    def _unlisted(self, error: GatewayError) -> GatewayError:
        """Log once per outage what visitors see as an arena without models."""
        if not self._failing:
            self._failing = True
            log.warning("the gateway lists no models", extra=kv(url=str(self._client.base_url), why=str(error)))
        return error

    async def answer(
        self, model: str, messages: Sequence[Mapping[str, Any]], parameters: Mapping[str, float]
    ) -> AsyncGenerator[Piece]:
        """The answer of a model, piece by piece; the last one has the `answer`. Raises GatewayError.

        Close the generator to have the engine stop.
        """
        clock = _Clock()
        heard = _Heard()
        try:
            async with self._stream(model, messages, parameters) as response:
                async for data in response.iter_bytes():
                    piece = heard.take(data)
                    if piece.text or piece.reasoning:
                        clock.tick()
                        yield piece
                    if heard.failure is not None:
                        raise heard.failure
        except openai.OpenAIError as error:
            raise _explained(error) from error
        except (httpx2.RequestError, msgspec.DecodeError) as error:
            raise GatewayError(GONE, str(error)) from error
        yield Piece(answer=heard.answer(clock))

    def _stream(
        self, model: str, messages: Sequence[Mapping[str, Any]], parameters: Mapping[str, float]
    ) -> AbstractAsyncContextManager[AsyncAPIResponse[Any]]:
        body: dict[str, Any] = dict(parameters)
        if "max_tokens" in body:
            body["max_tokens"] = int(body["max_tokens"])
        return self._client.chat.completions.with_streaming_response.create(
            model=model,
            messages=cast("Any", list(messages)),
            stream=True,
            stream_options={"include_usage": True},
            **body,
        )


class _Clock:
    """When pieces came, in seconds since the request."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.first: float | None = None
        self.last: float | None = None

    def tick(self) -> None:
        """A piece has come now."""
        self.last = time.monotonic() - self._began
        self.first = self.last if self.first is None else self.first


class _Heard:
    """What has come of an answer, but for its text."""

    def __init__(self) -> None:
        self._chunks = Chunks()
        self._finish: Finish = "stop"
        self._usage = Usage()
        self.failure: GatewayError | None = None

    def take(self, data: bytes) -> Piece:
        """What these bytes say; nothing comes after a `failure`. Raises msgspec.DecodeError."""
        text, reasoning = "", ""
        for chunk in self._chunks.read(data):
            if chunk.error is not None:
                self.failure = GatewayError(str(chunk.error.code or "gateway_error"), chunk.error.message)
            self._usage = chunk.usage or self._usage
            for choice in chunk.choices:
                if choice.finish_reason in _KNOWN:
                    self._finish = choice.finish_reason
                text += choice.delta.content or ""
                reasoning += choice.delta.reasoning_content or ""
        return Piece(text, reasoning)

    def answer(self, clock: _Clock) -> Answer:
        """The answer, when all has come."""
        return Answer(
            text="",
            finish=self._finish,
            prompt_tokens=self._usage.prompt_tokens,
            completion_tokens=self._usage.completion_tokens,
            first_token=clock.first,
            duration=clock.last,
        )


def messages_of(exchanges: Sequence[Exchange], prompt: str, pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    """The conversation of one side, as the gateway takes it. Answers that are empty are left out."""
    messages: list[dict[str, Any]] = []
    for exchange in exchanges:
        messages.append({"role": "user", "content": _content(exchange.prompt, exchange.pictures)})
        if exchange.text:
            messages.append({"role": "assistant", "content": exchange.text})
    return [*messages, {"role": "user", "content": _content(prompt, pictures)}]


def _content(prompt: str, pictures: Sequence[Picture]) -> str | list[dict[str, Any]]:
    if not pictures:
        return prompt
    urls = [f"data:{picture.media_type};base64,{b64encode(picture.data).decode()}" for picture in pictures]
    return [*({"type": "image_url", "image_url": {"url": url}} for url in urls), {"type": "text", "text": prompt}]


def _served(model: Any) -> ServedModel | None:
    """A model of the list, unless it cannot chat. Gateways that say nothing of capabilities list chat models."""
    told = cast("list[str] | None", getattr(model, "capabilities", None))
    if told is not None and "chat" not in told:
        return None
    return ServedModel(str(model.id), vision="vision" in (told or ()))


def _explained(error: openai.OpenAIError) -> GatewayError:
    if isinstance(error, openai.APIConnectionError):  # timeouts too
        return GatewayError(GONE, str(error))
    if isinstance(error, openai.APIStatusError) and error.status_code >= 502 and error.code is None:
        return GatewayError(GONE, str(error))  # a proxy before a gateway that is not there
    code = error.code if isinstance(error, openai.APIError) else None
    return GatewayError(code or "gateway_error", str(error))
