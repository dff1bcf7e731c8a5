"""Judges grade and compare: one line for each judgment, as it comes; what is there already is not asked again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.mt_bench import pool, verdict
from benchmarks.mt_bench.answering import keep_failures
from benchmarks.mt_bench.cache import Cache
from benchmarks.mt_bench.endpoint import Endpoint, Failed, Message, Reply
from benchmarks.mt_bench.jsonl import Appender
from benchmarks.mt_bench.matches import Match
from benchmarks.mt_bench.questions import QuestionId
from benchmarks.mt_bench.records import (
    UNSCORED,
    Failure,
    Judgment,
    Pair,
    Single,
    Usage,
    Winner,
    failures_path,
    judgment_path,
    now,
    read_failures,
    read_judgments,
    settle,
    tidy,
)
from benchmarks.mt_bench.verdict import Preference, Rating, Unscored

_WINNERS: Final[tuple[dict[str, Winner], ...]] = (
    {"A": "model_1", "B": "model_2", "tie": "tie"},
    {"A": "model_2", "B": "model_1", "tie": "tie"},
)


@dataclass(frozen=True, slots=True)
class JudgePlan:
    """How judges are asked: without a temperature if it is None. A verdict that cannot be read is asked for `attempts`
    times in all."""

    max_tokens: int = 2048
    temperature: float | None = 0.0
    attempts: int = 2
    limit: int = 16
    limit_each: int = 16


@dataclass(slots=True)
class Spent:
    """What a run used. `unknown`: requests whose endpoint told no usage."""

    usage: dict[str, Usage] = field(default_factory=dict[str, Usage])
    requests: int = 0
    unknown: int = 0
    cached: int = 0
    judged: int = 0
    unscored: int = 0

    def add(self, model: str, usage: Usage | None) -> None:
        """One more request was answered."""
        self.requests += 1
        if usage is None:
            self.unknown += 1
        else:
            self.usage[model] = self.usage.get(model, Usage()) + usage


@dataclass(frozen=True, slots=True)
class _Said:
    """A judge's words, and what they decide."""

    reply: Reply
    verdict: Rating | Preference | Unscored


class Judging:
    """Plays matches and writes their lines into `folder`."""

    def __init__(self, plan: JudgePlan, folder: Path, endpoint: Endpoint, cache: Cache) -> None:
        self._plan = plan
        self._folder = folder
        self._endpoint = endpoint
        self._cache = cache
        self._appender = Appender()
        self._asking: dict[tuple[str, str, str], asyncio.Lock] = {}
        self.spent = Spent()
        self.failures: list[Failure] = []

    async def play(self, matches: Sequence[Match], order: Sequence[QuestionId]) -> None:
        """Play them all. Afterwards the files are in the questions' order, without lines that others replace."""
        jobs: dict[str, list[Match]] = {}
        for match in matches:
            jobs.setdefault(match.judge, []).append(match)
        await pool.run(jobs, self._play, limit=self._plan.limit, limit_each=self._plan.limit_each, title="judgments")
        for judge in jobs:
            tidy(judgment_path(self._folder, judge, "single"), Single, order, replaced_gone)
            tidy(judgment_path(self._folder, judge, "pair"), Pair, order, replaced_gone)
        self._forget_failures()

    async def _play(self, match: Match) -> bool:
        """Whether there is a verdict. Both games of a pair at once."""
        said = await asyncio.gather(*(self._decide(match, text) for text in match.texts))
        words = [each for each in said if isinstance(each, _Said)]
        if len(words) < len(said):
            reason = next(each.reason for each in said if isinstance(each, Failed))
            failure = _failure(match, reason)
            await self._appender.append(failures_path(self._folder), failure)
            self.failures.append(failure)
            return False
        line = _single(match, words[0]) if len(match.models) == 1 else _pair(match, words)
        kind = "single" if isinstance(line, Single) else "pair"
        await self._appender.append(judgment_path(self._folder, match.judge, kind), line)
        self.spent.judged += 1
        self.spent.unscored += not line.scored
        return line.scored

    async def _decide(self, match: Match, text: str) -> _Said | Failed:
        """Two models that answered the same are judged by the same prompt: the second one waits for the cache."""
        async with self._asking.setdefault((match.judge, match.prompt.name, text), asyncio.Lock()):
            return await self._ask(match, text)

    async def _ask(self, match: Match, text: str) -> _Said | Failed:
        messages: list[Message] = [
            {"role": "system", "content": match.prompt.system},
            {"role": "user", "content": text},
        ]
        read = verdict.rating if match.prompt.kind == "single" else match.prompt.preference
        parameters = self.parameters
        if (known := self._cache.get(match.judge, messages, parameters)) is not None:
            self.spent.cached += 1
            return _Said(known, read(known.text))
        for attempt in range(1, self._plan.attempts + 1):
            reply = await self._endpoint.chat(match.judge, messages, **parameters)
            if isinstance(reply, Failed):
                return reply
            self.spent.add(match.judge, reply.usage)
            said = _Said(reply, _read(read, reply))
            if not isinstance(said.verdict, Unscored):
                await asyncio.to_thread(self._cache.put, match.judge, messages, parameters, reply)
                return said
            if attempt == self._plan.attempts:
                return said
        raise AssertionError("attempts is at least 1")

    @property
    def parameters(self) -> dict[str, Any]:
        """What a judge is asked with, beside the messages."""
        given = {"max_tokens": self._plan.max_tokens, "temperature": self._plan.temperature}
        return {name: value for name, value in given.items() if value is not None}

    def _forget_failures(self) -> None:
        """Take out of the failures the judgments that are there by now."""
        failures = read_failures(self._folder)
        done: set[object] = set()
        for judge in {failure.judge for failure in failures if failure.judge is not None}:
            done |= {line.key for line in read_judgments(judgment_path(self._folder, judge, "single"), Single)}
            done |= {line.key for line in read_judgments(judgment_path(self._folder, judge, "pair"), Pair)}
        keep_failures(self._folder, failures, [failure for failure in failures if _key(failure) not in done])


def replaced_gone(lines: Iterable[Judgment]) -> list[Judgment]:
    """Without the lines that had no verdict and were judged again; verdicts are never thrown away."""
    lines = [*lines]
    counted = {id(line) for line in settle(lines)}
    return [line for line in lines if line.scored or id(line) in counted]


def _read(read: Callable[[str], Rating | Preference | Unscored], reply: Reply) -> Rating | Preference | Unscored:
    found = read(reply.text)
    if isinstance(found, Unscored) and reply.finish == "length":
        return Unscored(f"{found.reason}, which were cut off")
    return found


def _key(failure: Failure) -> object:
    models = sorted(model for model in (failure.model, failure.model_2) if model is not None)
    return (failure.question_id, failure.turn, *models, failure.judge)


def _failure(match: Match, reason: str) -> Failure:
    return Failure(
        kind="single" if len(match.models) == 1 else "pair",
        question_id=match.question.id,
        model=match.models[0],
        model_2=match.models[1] if len(match.models) > 1 else None,
        judge=match.judge,
        turn=match.turn,
        reason=reason,
        tstamp=now(),
    )


def _single(match: Match, said: _Said) -> Single:
    rating = said.verdict
    return Single(
        question_id=match.question.id,
        model=match.models[0],
        judge=(match.judge, match.prompt.name),
        user_prompt=match.texts[0],
        judgment=said.reply.text,
        score=rating.score if isinstance(rating, Rating) else UNSCORED,
        unscored=rating.reason if isinstance(rating, Unscored) else None,
        turn=match.turn,
        tstamp=now(),
        references=match.references,
        usage=said.reply.usage,
    )


def _pair(match: Match, said: Sequence[_Said]) -> Pair:
    games = [each.verdict for each in said]
    reasons = [f"game {n}: {game.reason}" for n, game in enumerate(games, 1) if isinstance(game, Unscored)]
    usages = [each.reply.usage for each in said]
    winners: list[Winner] = [_winner(game, mapping) for game, mapping in zip(games, _WINNERS, strict=True)]
    labels = [game.label if isinstance(game, Preference) else None for game in games]
    return Pair(
        question_id=match.question.id,
        model_1=match.models[0],
        model_2=match.models[1],
        g1_winner=winners[0],
        g2_winner=winners[1],
        judge=(match.judge, match.prompt.name),
        g1_user_prompt=match.texts[0],
        g1_judgment=said[0].reply.text,
        g2_user_prompt=match.texts[1],
        g2_judgment=said[1].reply.text,
        g1_verdict=labels[0],
        g2_verdict=labels[1],
        turn=match.turn,
        tstamp=now(),
        unscored="; ".join(reasons) or None,
        references=match.references,
        usage=usages[0] + usages[1] if usages[0] is not None and usages[1] is not None else None,
    )


def _winner(game: Rating | Preference | Unscored, mapping: dict[str, Winner]) -> Winner:
    return mapping[game.side] if isinstance(game, Preference) else "error"
