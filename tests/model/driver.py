"""Runs the default engine in a test and gathers what it reports, per request."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from mesh.engine.base import (
    Chat,
    ChoiceFinished,
    Delta,
    Failed,
    Finished,
    Output,
    Progress,
    Request,
    Sampling,
    Started,
    Step,
    Text,
    TokenLogprob,
    Tokens,
)
from mesh.engine.transformers.engine import TransformersEngine
from mesh.engine.transformers.loading.options import LoadOptions
from mesh.engine.transformers.memory import CacheSize
from mesh.engine.transformers.options import EngineOptions

LIMIT = 30.0


@dataclass
class Answer:
    """All that was reported of one request."""

    started: Started | None = None
    tokens: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    text: dict[int, str] = field(default_factory=dict[int, str])
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    ends: dict[int, ChoiceFinished] = field(default_factory=dict[int, ChoiceFinished])
    finished: Finished | None = None
    failed: Failed | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def ids(self) -> list[int]:
        """The tokens of choice 0."""
        return self.tokens.get(0, [])


class Driver:
    """An engine for the duration of `async with`; `model` are more of LoadOptions, `options` of EngineOptions."""

    def __init__(
        self,
        path: str,
        *,
        kv_tokens: int | None = None,
        chat_template: str | None = None,
        model: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        options.setdefault("max_rows", 8)
        options.setdefault("kv_cache", CacheSize(tokens=kv_tokens))
        load = LoadOptions(path=path, threads=1, chat_template=chat_template, **(model or {}))
        self.engine = TransformersEngine(EngineOptions(load, **options))
        self.answers: dict[int, Answer] = {}
        self.steps: list[Step] = []

    async def __aenter__(self) -> Self:
        await self.engine.start(self._listen)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.engine.stop()

    def _listen(self, step: Step) -> None:
        self.steps.append(step)
        for event in step.events:
            answer = self.answers[event.key]
            assert not answer.over.is_set(), "an event after the last one"
            match event:
                case Started():
                    answer.started = event
                case Delta():
                    answer.tokens.setdefault(event.choice, []).extend(event.token_ids)
                    answer.text[event.choice] = answer.text.get(event.choice, "") + event.text
                    answer.logprobs += event.logprobs or []
                case ChoiceFinished():
                    answer.ends[event.choice] = event
                case Finished():
                    answer.finished = event
                    answer.over.set()
                case Failed():
                    answer.failed = event
                    answer.over.set()

    async def submit(
        self,
        prompt: Sequence[int] | str | Chat,
        *,
        tokens: int | None = 16,
        resume: Mapping[int, Sequence[int] | Progress] | None = None,
        output: Output | None = None,
        sampling: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> int:
        """Start a request, greedy and past the end of turn unless `sampling` says otherwise; returns its key."""
        key = len(self.answers) + 1
        options: dict[str, Any] = {
            "seed": 1,
            "temperature": 0.0,
            "ignore_eos": True,
            "max_tokens": tokens,
            **(sampling or {}),
        }
        self.answers[key] = Answer()
        await self.engine.submit(
            Request(
                key=key,
                request_id=f"test-{key}",
                model="",
                prompt=_prompt(prompt),
                sampling=Sampling(**options),
                output=output or Output(),
                resume={
                    choice: value if isinstance(value, Progress) else Progress(tuple(value))
                    for choice, value in (resume or {}).items()
                },
                **fields,
            )
        )
        return key

    async def answer(self, key: int) -> Answer:
        """Wait for the end of a request."""
        answer = self.answers[key]
        await asyncio.wait_for(answer.over.wait(), LIMIT)
        return answer

    async def ask(self, prompt: Sequence[int] | str | Chat, **fields: Any) -> Answer:
        """Submit and wait."""
        return await self.answer(await self.submit(prompt, **fields))

    async def until_tokens(self, key: int, count: int) -> None:
        """Wait until choice 0 of a request has reported this many tokens."""
        async with asyncio.timeout(LIMIT):
            while len(self.answers[key].ids) < count:
                assert not self.answers[key].over.is_set(), self.answers[key]
                await asyncio.sleep(0.001)

    async def until_idle(self) -> None:
        """Wait until no row and no page is left."""
        async with asyncio.timeout(LIMIT):
            while self.stat("rows_live") or self.stat("kv_pages_used"):
                await asyncio.sleep(0.001)

    def stat(self, name: str) -> int:
        """One of the engine's counters."""
        return int(self.engine.stats()[name])


def _prompt(prompt: Sequence[int] | str | Chat) -> Text | Chat | Tokens:
    if isinstance(prompt, str):
        return Text(prompt)
    return prompt if isinstance(prompt, Chat) else Tokens(tuple(prompt))


def prompt_of(length: int, start: int = 0) -> list[int]:
    """A prompt of this many tokens, different for each `start`."""
    return [(start * 31 + place * 13 + place * place) % 250 for place in range(length)]
