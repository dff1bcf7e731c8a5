"""What runs write and results read: answers, judgments and failures, in FastChat's shapes with fields of our own.

FastChat ignores the fields that it does not know, and its own files lack them, hence their defaults.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import quote, unquote

import msgspec

from benchmarks.mt_bench.jsonl import lines, numbered, replace
from benchmarks.mt_bench.questions import QuestionId

Mode = Literal["single", "pairwise-baseline", "pairwise-all"]
Winner = Literal["model_1", "model_2", "tie", "error"]
UNSCORED = -1


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one request or of several."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)


class Choice(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One conversation: the answer to each turn, and what the model thought before it, where it did."""

    index: int
    turns: list[str]
    thinking: list[str] | None = None


class Settings(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What an answer was asked with; None was not sent. `seed` is that of the first choice."""

    temperature: float | None
    max_tokens: int
    system: str | None = None
    seed: int | None = None


class Answer(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A line of model_answer/MODEL.jsonl or reference_answer/NAME.jsonl. `usage` lacks if the endpoint told none."""

    question_id: QuestionId
    answer_id: str = ""
    model_id: str
    choices: list[Choice]
    tstamp: float = 0.0
    settings: Settings | None = None
    usage: Usage | None = None


class Single(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A line of model_judgment/JUDGE_single.jsonl. `score` is -1 if there was no verdict, `unscored` says why.

    `judge` is the judge's name and that of the prompt; `references` names the reference answers that it saw.
    """

    question_id: QuestionId
    model: str
    judge: tuple[str, str]
    user_prompt: str
    judgment: str
    score: int | float
    turn: int
    tstamp: float = 0.0
    unscored: str | None = None
    references: str | None = None
    usage: Usage | None = None

    @property
    def key(self) -> tuple[Hashable, ...]:
        """Lines with the same key are about the same."""
        return (self.question_id, self.turn, self.model, self.judge[0])

    @property
    def scored(self) -> bool:
        """Whether there is a verdict."""
        return self.score != UNSCORED

    @property
    def prompts(self) -> frozenset[str]:
        """What the judge was asked."""
        return frozenset({self.user_prompt})


class Pair(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A line of model_judgment/JUDGE_pair.jsonl: two games, in which model_1 is shown first, then second.

    A game without a verdict has "error" for its winner, and `unscored` says why. `g1_verdict` and `g2_verdict` are the
    judge's words of a verdict of five levels, such as A>>B.
    """

    question_id: QuestionId
    model_1: str
    model_2: str
    g1_winner: Winner
    g2_winner: Winner
    judge: tuple[str, str]
    g1_user_prompt: str
    g1_judgment: str
    g2_user_prompt: str
    g2_judgment: str
    turn: int
    tstamp: float = 0.0
    g1_verdict: str | None = None
    g2_verdict: str | None = None
    unscored: str | None = None
    references: str | None = None
    usage: Usage | None = None

    @property
    def key(self) -> tuple[Hashable, ...]:
        """Lines with the same key are about the same, whichever model came first."""
        return (self.question_id, self.turn, *sorted((self.model_1, self.model_2)), self.judge[0])

    @property
    def scored(self) -> bool:
        """Whether both games have a verdict."""
        return "error" not in (self.g1_winner, self.g2_winner)

    @property
    def prompts(self) -> frozenset[str]:
        """What the judge was asked, in both games."""
        return frozenset({self.g1_user_prompt, self.g2_user_prompt})

    @property
    def winner(self) -> Winner | Literal["inconsistent"]:
        """Of both games together: only who won both has won."""
        if not self.scored:
            return "error"
        return self.g1_winner if self.g1_winner == self.g2_winner else "inconsistent"


Judgment = TypeVar("Judgment", bound=Single | Pair)
Line = TypeVar("Line", bound=Answer | Single | Pair)


class Failure(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A line of failures.jsonl: an answer or a judgment that there is not, and why."""

    kind: Literal["answer", "single", "pair"]
    question_id: QuestionId
    model: str
    reason: str
    model_2: str | None = None
    judge: str | None = None
    turn: int | None = None
    tstamp: float = 0.0


def file_name(model: str) -> str:
    """A model's or a judge's name as part of a file's name."""
    return quote(model, safe=" +@,=()[]:")


def model_name(stem: str) -> str:
    """The other way."""
    return unquote(stem)


def answer_path(folder: Path, model: str) -> Path:
    """Where the answers of a model are."""
    return folder / "model_answer" / f"{file_name(model)}.jsonl"


def judgment_path(folder: Path, judge: str, kind: Literal["single", "pair"]) -> Path:
    """Where the judgments of a judge are."""
    return folder / "model_judgment" / f"{file_name(judge)}_{kind}.jsonl"


def failures_path(folder: Path) -> Path:
    """Where failures are."""
    return folder / "failures.jsonl"


def read_answers(path: Path) -> dict[QuestionId, Answer]:
    """The answers of a file, in its order; of several to one question the last. Empty without a file."""
    return {answer.question_id: answer for _, answer in numbered(path, Answer)} if path.exists() else {}


def latest_answers(given: Iterable[Answer]) -> list[Answer]:
    """Of several answers to one question the last."""
    return [*{line.question_id: line for line in given}.values()]


def read_judgments(path: Path, kind: type[Judgment]) -> list[Judgment]:
    """The judgments of a file, each once; see `settle`."""
    return settle(line for _, line in numbered(path, kind)) if path.exists() else []


def all_judgments(folder: Path, kind: type[Judgment]) -> list[Judgment]:
    """Those of all judges of a run, each once."""
    files = sorted((folder / "model_judgment").glob("*_single.jsonl" if kind is Single else "*_pair.jsonl"))
    return [line for path in files for line in read_judgments(path, kind)]


def read_failures(folder: Path) -> list[Failure]:
    """The failures that a run left."""
    path = failures_path(folder)
    return [failure for _, failure in numbered(path, Failure)] if path.exists() else []


def by_judge(lines: Iterable[Judgment]) -> dict[str, list[Judgment]]:
    """Judgments by the judge's name."""
    groups: dict[str, list[Judgment]] = {}
    for line in lines:
        groups.setdefault(line.judge[0], []).append(line)
    return groups


def settle(given: Iterable[Judgment]) -> list[Judgment]:
    """Of several lines about the same, the last counts; but one without a verdict never replaces one with a verdict
    about the same prompt."""
    kept: dict[Hashable, Judgment] = {}
    for line in given:
        before = kept.get(line.key)
        if before is None or line.scored or not before.scored or line.prompts != before.prompts:
            kept[line.key] = line
    return [*kept.values()]


def tidy(
    path: Path, kind: type[Line], order: Sequence[QuestionId], settled: Callable[[Iterable[Line]], Sequence[Line]]
) -> None:
    """Bring the lines of a file into the order of their questions, and leave out those that others replace.

    A line that stays is kept as it is, byte for byte. The file is not touched if nothing changes.
    """
    if not path.exists():
        return
    decoder = msgspec.json.Decoder(kind)
    rows = [(decoder.decode(line), line + b"\n") for _, line in lines(path)]
    raw = {id(value): line for value, line in rows}
    place = {question: at for at, question in enumerate(order)}
    kept = sorted(settled([value for value, _ in rows]), key=lambda value: _sort_key(value, place))
    content = [raw[id(value)] for value in kept]
    if b"".join(content) != path.read_bytes():
        replace(path, content)


def _sort_key(line: Answer | Single | Pair, place: dict[QuestionId, int]) -> tuple[int, int, str, str]:
    at = place.get(line.question_id, len(place))
    match line:
        case Answer():
            return (at, 0, line.model_id, "")
        case Single():
            return (at, line.turn, line.model, "")
        case Pair():
            return (at, line.turn, line.model_1, line.model_2)


def now() -> float:
    """Seconds since 1970."""
    return time.time()
