"""How often two judges agree, as in arXiv 2306.05685: per turn, with ties (setup S1) and without (S2).

A vote is about a question, a turn and a pair of models. Two different groups of voters agree in the share of all pairs
of a vote of the one and a vote of the other; a group agrees with itself in the share of all pairs of its votes. S1
takes every vote, and a judge whose verdict changes with the order has voted for a tie. S2 takes the votes for a winner
only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec

from benchmarks.mt_bench import stats
from benchmarks.mt_bench.jsonl import BadFile, explain, lines
from benchmarks.mt_bench.questions import QuestionId
from benchmarks.mt_bench.records import Pair, Single, settle

Choice = Literal["model_a", "model_b", "tie"]
_OPPOSITE: Final[dict[Choice, Choice]] = {"model_a": "model_b", "model_b": "model_a", "tie": "tie"}
# What FastChat's program and the published votes call them.
_ALIASES: Final = {"gpt4-pair": "gpt-4-pair", "gpt4_pair": "gpt-4-pair", "gpt4-single": "gpt-4-single"}


class _Line(msgspec.Struct, kw_only=True):
    """A vote in FastChat's shape. The judge is a person, "expert_3" or "author_1", or a model and its prompt."""

    question_id: QuestionId
    model_a: str
    model_b: str
    winner: str
    judge: str | list[str]
    turn: int


@dataclass(frozen=True, slots=True)
class Vote:
    """One vote; model_a is the first of the two by name. `voter` is a group: human, author, or a model's judgments."""

    question: QuestionId
    turn: int
    model_a: str
    model_b: str
    voter: str
    choice: Choice


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of `total` pairs of votes `agree` are equal; the interval of 95 % redraws questions. `kappa` is Cohen's."""

    first: str
    second: str
    turn: int
    ties: bool
    models: tuple[str, str] | None
    agree: int
    total: int
    low: float | None
    high: float | None
    kappa: float | None

    @property
    def ratio(self) -> float:
        """The share."""
        return self.agree / self.total if self.total else float("nan")


def read_votes(path: Path) -> list[Vote]:
    """The votes of a file: FastChat-shaped votes as a JSON list or as lines, or lines of judgments. Raises BadFile."""
    try:
        start = path.read_bytes().lstrip()[:1]
    except OSError as error:
        raise BadFile(f"{path}: {error.strerror or error}") from error
    if start == b"[":
        try:
            return [vote(line) for line in msgspec.json.decode(path.read_bytes(), type=list[_Line])]
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            raise BadFile(f"{path}: {explain(error)}") from error
    pairs: list[Pair] = []
    singles: list[Single] = []
    votes: list[Vote] = []
    for number, line in lines(path):
        try:
            kind = _kind(line)
            value = msgspec.json.decode(line, type=kind)
            match value:
                case Pair():
                    pairs.append(value)
                case Single():
                    singles.append(value)
                case _:
                    votes.append(vote(value))
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            raise BadFile(f"{path}:{number}: {explain(error)}") from error
    return [*votes, *pair_votes(settle(pairs)), *single_votes(settle(singles))]


def _kind(line: bytes) -> type[Pair] | type[Single] | type[_Line]:
    """Told by a field that only one of them has."""
    fields = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    return Pair if "g1_winner" in fields else Single if "score" in fields else _Line


def vote(line: _Line) -> Vote:
    """Raises ValueError for a winner that there is not."""
    choice: Choice
    if "tie" in line.winner:
        choice = "tie"
    elif line.winner == "model_a" or line.winner == "model_b":
        choice = line.winner
    else:
        raise ValueError(f"winner: must be model_a, model_b or tie, not {line.winner!r}")
    return _sorted(line.question_id, line.turn, line.model_a, line.model_b, _voter(line.judge), choice)


def _voter(judge: str | list[str]) -> str:
    """People by their group; a model by its name and whether it graded or compared, which its prompt's name tells."""
    if isinstance(judge, list):
        prompt = judge[1] if len(judge) > 1 else ""
        return f"{judge[0]}-{'single' if 'single' in prompt else 'pair'}"
    if judge.startswith("expert"):
        return "human"
    return "author" if judge.startswith("author") else _ALIASES.get(judge, judge)


def _sorted(question: QuestionId, turn: int, first: str, second: str, voter: str, choice: Choice) -> Vote:
    if first < second:
        return Vote(question, turn, first, second, voter, choice)
    return Vote(question, turn, second, first, voter, _OPPOSITE[choice])


def pair_votes(judgments: Iterable[Pair]) -> Iterator[Vote]:
    """One vote for each judgment with a verdict; two games that differ are a tie."""
    for line in judgments:
        if line.scored:
            choices: dict[str, Choice] = {"model_1": "model_a", "model_2": "model_b"}
            choice = choices.get(line.winner, "tie")
            yield _sorted(line.question_id, line.turn, line.model_1, line.model_2, f"{line.judge[0]}-pair", choice)


def single_votes(judgments: Iterable[Single]) -> Iterator[Vote]:
    """For each pair of models that a judge graded on the same question and turn: the higher grade wins."""
    groups: dict[tuple[QuestionId, int, str], dict[str, Single]] = {}
    for line in judgments:
        if line.scored:
            groups.setdefault((line.question_id, line.turn, line.judge[0]), {})[line.model] = line
    for (question, turn, judge), by_model in groups.items():
        for first, second in itertools.combinations(sorted(by_model), 2):
            gap = by_model[first].score - by_model[second].score
            choice: Choice = "tie" if gap == 0 else "model_a" if gap > 0 else "model_b"
            yield Vote(question, turn, first, second, f"{judge}-single", choice)


def voters(votes: Iterable[Vote]) -> list[str]:
    """The groups that voted."""
    return sorted({vote.voter for vote in votes})


def agreements(votes: Sequence[Vote], first: str, second: str, *, per_pair: bool = False) -> list[Agreement]:
    """Of two groups of voters, by turn and setup; of each pair of models, too, where wanted. Raises BadFile for a
    group that nobody is in."""
    first, second = _ALIASES.get(first, first), _ALIASES.get(second, second)
    known = voters(votes)
    for name in (first, second):
        if name not in known:
            raise BadFile(f"--judges '{name}': no vote is by it; there are votes by {', '.join(known) or 'nobody'}")
    pairs: list[tuple[str, str] | None] = [None]
    if per_pair:
        pairs += sorted({(vote.model_a, vote.model_b) for vote in votes})
    found = [
        _agreement(_of(votes, turn, models), first, second, turn=turn, ties=ties, models=models)
        for models in pairs
        for turn in sorted({vote.turn for vote in votes})
        for ties in (True, False)
    ]
    return [each for each in found if each.total or each.models is None]


def _of(votes: Sequence[Vote], turn: int, models: tuple[str, str] | None) -> list[Vote]:
    return [vote for vote in votes if vote.turn == turn and models in (None, (vote.model_a, vote.model_b))]


def _agreement(
    votes: Sequence[Vote], first: str, second: str, *, turn: int, ties: bool, models: tuple[str, str] | None
) -> Agreement:
    met: dict[QuestionId, list[tuple[Choice, Choice]]] = {}
    for question, given in _met(votes, first, second):
        met.setdefault(question, []).extend(pair for pair in given if ties or "tie" not in pair)
    share = stats.mean({key: [float(a == b) for a, b in pairs] for key, pairs in met.items()})
    together = [pair for pairs in met.values() for pair in pairs]
    agree = sum(a == b for a, b in together)
    # Within a group nobody is the first: both orders count.
    beyond_chance = kappa(together + [(b, a) for a, b in together] if first == second else together)
    return Agreement(first, second, turn, ties, models, agree, len(together), share.low, share.high, beyond_chance)


def _met(votes: Sequence[Vote], first: str, second: str) -> Iterator[tuple[QuestionId, list[tuple[Choice, Choice]]]]:
    """The pairs of votes about the same."""
    groups: dict[tuple[QuestionId, str, str], Mapping[str, list[Choice]]] = {}
    for each in votes:
        mine = groups.setdefault((each.question, each.model_a, each.model_b), {first: [], second: []})
        if each.voter in mine:
            mine[each.voter].append(each.choice)
    for (question, _, _), by_voter in groups.items():
        if first == second:
            yield question, [*itertools.combinations(by_voter[first], 2)]
        else:
            yield question, [*itertools.product(by_voter[first], by_voter[second])]


def kappa(pairs: Sequence[tuple[Choice, Choice]]) -> float | None:
    """Agreement beyond that of two voters who vote at random with the same shares; None where that is not defined."""
    if not pairs:
        return None
    agree = sum(a == b for a, b in pairs) / len(pairs)
    chance = 0.0
    for choice in _OPPOSITE:
        chance += sum(a == choice for a, _ in pairs) / len(pairs) * (sum(b == choice for _, b in pairs) / len(pairs))
    return (agree - chance) / (1 - chance) if chance < 1 else None
