"""Results of comparing: wins, ties and losses, how consistent the judge is when the answers are swapped, and style."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.mt_bench import stats
from benchmarks.mt_bench.counts import Counts, Questions, count, expected, failed_items
from benchmarks.mt_bench.matches import Answers
from benchmarks.mt_bench.records import Failure, Pair
from benchmarks.mt_bench.stats import Mean
from benchmarks.mt_bench.style import Battle, Controlled, control

# What a verdict of "much better" weighs, against one of "a little better" (Arena-Hard's rule).
STRONG: Final = 3


@dataclass(frozen=True, slots=True)
class Record:
    """Wins, ties and losses of a model, and its shares of them. A tie is half a win in `adjusted`."""

    wins: int
    ties: int
    losses: int
    adjusted: Mean

    @property
    def n(self) -> int:
        """Judgments with a verdict."""
        return self.wins + self.ties + self.losses

    @property
    def win_rate(self) -> float:
        """Wins among all."""
        return self.wins / self.n if self.n else float("nan")

    @property
    def loss_rate(self) -> float:
        """Losses among all."""
        return self.losses / self.n if self.n else float("nan")


@dataclass(frozen=True, slots=True)
class ModelDuels:
    """A model against all others. In `weighted` strong verdicts count more; None where there are no such verdicts."""

    model: str
    record: Record
    turns: dict[int, Record]
    counts: Counts
    weighted: Mean | None


@dataclass(frozen=True, slots=True)
class Contest:
    """One model against another, from the first one's side. `p`: of a sign-flip test of no difference, by question;
    `p_holm` is corrected for the number of pairs."""

    first: str
    second: str
    record: Record
    p: float
    p_holm: float = float("nan")


@dataclass(frozen=True, slots=True)
class Bias:
    """How a judge bears swapping: of `n` judgments in both orders, so many agreed; of the others, some favoured the
    answer that was shown first or second in both games, and the rest had one tie."""

    n: int
    consistent: int
    first: int
    second: int

    @property
    def consistency(self) -> float:
        """The share that agreed."""
        return self.consistent / self.n if self.n else float("nan")


@dataclass(frozen=True, slots=True)
class Duels:
    """All comparisons of one judge, the best model first.

    `length_correlation` is Spearman's, of how much longer an answer is and whether it wins.
    """

    judge: str
    models: list[ModelDuels]
    contests: list[Contest]
    bias: Bias
    length_correlation: float | None
    style: Controlled | None


def outcome(line: Pair, model: str) -> float:
    """1 if the model won, 0 if it lost; a tie and two verdicts that differ are 0.5."""
    if line.winner in ("tie", "inconsistent"):
        return 0.5
    return float((line.winner == "model_1") == (line.model_1 == model))


def compare(
    name: str,
    judges: Sequence[str],
    lines: Sequence[Pair],
    questions: Questions,
    failures: Sequence[Failure],
    answers: Answers,
    baseline: str | None,
) -> Duels:
    """Results of the lines of one judge, or of several together under a name.

    With a baseline only comparisons with it count, and it has no row of its own.
    """
    if baseline is not None:
        lines = [line for line in lines if baseline in (line.model_1, line.model_2)]
    models = dict.fromkeys(model for line in lines for model in (line.model_1, line.model_2) if model != baseline)
    rows = [_model(model, judges, _with(lines, model), questions, failures) for model in models]
    rows.sort(key=lambda row: (-row.record.adjusted.value if row.record.n else 1.0, row.model))
    scored = [line for line in lines if line.scored]
    return Duels(
        judge=name,
        models=rows,
        contests=_contests([row.model for row in rows] + ([baseline] if baseline else []), scored),
        bias=_bias(scored),
        length_correlation=_length_correlation(scored, answers),
        style=_controlled(scored, answers, baseline),
    )


def _with(lines: Iterable[Pair], model: str) -> list[Pair]:
    return [line for line in lines if model in (line.model_1, line.model_2)]


def _model(
    model: str, judges: Sequence[str], lines: Sequence[Pair], questions: Questions, failures: Sequence[Failure]
) -> ModelDuels:
    scored = [line for line in lines if line.scored]
    contests = dict.fromkeys(tuple(sorted((line.model_1, line.model_2))) for line in lines)
    wanted = expected(questions, contests, judges)
    strong = any(line.g1_verdict for line in scored)
    return ModelDuels(
        model=model,
        record=_record(scored, model),
        turns={
            turn: _record([line for line in scored if line.turn == turn], model)
            for turn in sorted({line.turn for line in lines})
        },
        counts=count(wanted, lines, failed_items(wanted, failures)),
        weighted=stats.mean(_grouped(scored, lambda line: _weighted(line, model))) if strong else None,
    )


def _record(lines: Sequence[Pair], model: str) -> Record:
    outcomes = [outcome(line, model) for line in lines]
    return Record(
        wins=outcomes.count(1.0),
        ties=outcomes.count(0.5),
        losses=outcomes.count(0.0),
        adjusted=stats.mean(_grouped(lines, lambda line: [outcome(line, model)])),
    )


def _grouped(lines: Iterable[Pair], values: Callable[[Pair], list[float]]) -> dict[object, list[float]]:
    groups: dict[object, list[float]] = {}
    for line in lines:
        groups.setdefault(line.question_id, []).extend(values(line))
    return groups


def _weighted(line: Pair, model: str) -> list[float]:
    """Each game by itself, a strong verdict three times (Arena-Hard's score)."""
    values: list[float] = []
    for winner, label in ((line.g1_winner, line.g1_verdict), (line.g2_winner, line.g2_verdict)):
        value = 0.5 if winner == "tie" else float((winner == "model_1") == (line.model_1 == model))
        values += [value] * (STRONG if label is not None and ">>" in label else 1)
    return values


def _contests(order: Sequence[str], scored: Sequence[Pair]) -> list[Contest]:
    """All pairs that met, the better one first."""
    games: dict[frozenset[str], list[Pair]] = {}
    for line in scored:
        games.setdefault(frozenset({line.model_1, line.model_2}), []).append(line)
    found: list[Contest] = []
    for place, first in enumerate(order):
        for second in order[place + 1 :]:
            if met := games.get(frozenset({first, second})):
                gap = stats.difference(_grouped(met, lambda line, model=first: [outcome(line, model) - 0.5]))
                found.append(Contest(first, second, _record(met, first), gap.p if gap else float("nan")))
    corrected = stats.holm([contest.p for contest in found])
    return [replace(contest, p_holm=p) for contest, p in zip(found, corrected, strict=True)]


def _bias(scored: Sequence[Pair]) -> Bias:
    games = [(line.g1_winner, line.g2_winner) for line in scored]
    return Bias(
        n=len(games),
        consistent=sum(first == second for first, second in games),
        first=games.count(("model_1", "model_2")),
        second=games.count(("model_2", "model_1")),
    )


def _texts(line: Pair, answers: Answers) -> tuple[str, str] | None:
    """Both answers in the line's turn, if they are there."""
    found: list[str] = []
    for model in (line.model_1, line.model_2):
        answer = answers.get(model, {}).get(line.question_id)
        if answer is None or not answer.choices or len(answer.choices[0].turns) < line.turn:
            return None
        found.append(answer.choices[0].turns[line.turn - 1])
    return found[0], found[1]


def _length_correlation(scored: Sequence[Pair], answers: Answers) -> float | None:
    pairs = [
        ((len(texts[0]) - len(texts[1])) / max(len(texts[0]) + len(texts[1]), 1), outcome(line, line.model_1))
        for line in scored
        if (texts := _texts(line, answers)) is not None
    ]
    return stats.rank_correlation([gap for gap, _ in pairs], [won for _, won in pairs])


def _controlled(scored: Sequence[Pair], answers: Answers, baseline: str | None) -> Controlled | None:
    """Against the baseline, or the first model by name where there is none."""
    battles = [
        Battle(line.question_id, line.model_1, line.model_2, *texts, outcome(line, line.model_1))
        for line in scored
        if (texts := _texts(line, answers)) is not None
    ]
    if not battles:
        return None
    return control(battles, baseline or min(model for battle in battles for model in (battle.first, battle.second)))
