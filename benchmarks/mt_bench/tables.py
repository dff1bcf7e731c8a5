"""Results as tables, and tables as text for a terminal or in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from benchmarks.mt_bench.agreement import Agreement
from benchmarks.mt_bench.duels import Duels, Record
from benchmarks.mt_bench.grades import Grades
from benchmarks.mt_bench.results import Results
from benchmarks.mt_bench.stats import Mean
from benchmarks.table import markdown


@dataclass(frozen=True, slots=True)
class Table:
    """A title, a header and rows of text."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(results: Results) -> list[Table]:
    """Everything, in the order of interest."""
    found: list[Table] = []
    for grades in results.grades:
        found += [_scores(grades), _categories(grades), *_gaps(grades)]
    for duels in results.duels:
        found += [_records(duels), _contests(duels), *_style(duels)]
    return [*found, *_judges(results), *_notes(results)]


def _scores(grades: Grades) -> Table:
    turns = sorted({turn for each in grades.models for turn in each.turns})
    header = ["model", "score", *(f"turn {turn}" for turn in turns), "n", "not counted"]
    rows = [
        [
            each.model,
            each.overall.text,
            *(each.turns[turn].text if turn in each.turns else "-" for turn in turns),
            str(each.counts.n),
            each.counts.text,
        ]
        for each in grades.models
    ]
    return Table(f"Scores by {grades.judge}: mean of 1 to 10 [95 % interval over questions]", header, rows)


def _categories(grades: Grades) -> Table:
    names = list(dict.fromkeys(name for each in grades.models for name in each.categories))
    cells = [[_short(each.categories.get(name)) for name in names] for each in grades.models]
    models = [each.model for each in grades.models]
    title = f"By category, {grades.judge}: mean (n)"
    if len(models) < len(names):  # what is fewer becomes columns
        rows = [[name, *column] for name, column in zip(names, zip(*cells, strict=True), strict=True)]
        return Table(title, ["category", *models], rows)
    return Table(title, ["model", *names], [[model, *row] for model, row in zip(models, cells, strict=True)])


def _short(mean: Mean | None) -> str:
    return f"{mean.value:.2f} ({mean.n})" if mean is not None and mean.n else "-"


def _gaps(grades: Grades) -> list[Table]:
    if not grades.gaps:
        return []
    rows = [
        [
            f"{gap.first} − {gap.second}",
            f"{gap.difference.value:+.2f}" + _bounds(gap.difference.low, gap.difference.high, "+.2f"),
            str(gap.difference.questions),
            f"{gap.difference.p:.4f}",
            f"{gap.difference.p_holm:.4f}",
        ]
        for gap in grades.gaps
    ]
    header = ["models", "difference", "questions", "p", "p (Holm)"]
    return [Table(f"Paired differences, {grades.judge}: sign-flip test over questions", header, rows)]


def _bounds(low: float | None, high: float | None, form: str) -> str:
    return "" if low is None or high is None else f" [{low:{form}}, {high:{form}}]"


def _records(duels: Duels) -> Table:
    weighted = any(each.weighted is not None for each in duels.models)
    header = ["model", "win", "tie", "loss", "win rate", "loss rate", "adjusted", *_turn_names(duels)]
    header += ["weighted"] * weighted + ["n", "not counted"]
    rows = [
        [
            each.model,
            *_shares(each.record),
            *(f"{each.turns[turn].adjusted.value:.3f}" if turn in each.turns else "-" for turn in _turns(duels)),
            *([_rate(each.weighted)] if weighted and each.weighted is not None else []),
            str(each.counts.n),
            each.counts.text,
        ]
        for each in duels.models
    ]
    return Table(f"Win rates by {duels.judge}: adjusted counts a tie as half a win", header, rows)


def _turns(duels: Duels) -> list[int]:
    return sorted({turn for each in duels.models for turn in each.turns})


def _turn_names(duels: Duels) -> list[str]:
    return [f"adjusted, turn {turn}" for turn in _turns(duels)]


def _shares(record: Record) -> list[str]:
    return [
        str(record.wins),
        str(record.ties),
        str(record.losses),
        _number(record.win_rate),
        _number(record.loss_rate),
        _rate(record.adjusted),
    ]


def _rate(mean: Mean) -> str:
    return "-" if not mean.n else f"{mean.value:.3f}" + _bounds(mean.low, mean.high, ".3f")


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _contests(duels: Duels) -> Table:
    rows = [
        [
            f"{each.first} : {each.second}",
            *_shares(each.record),
            str(each.record.n),
            f"{each.p:.4f}",
            f"{each.p_holm:.4f}",
        ]
        for each in duels.contests
    ]
    header = ["models", "win", "tie", "loss", "win rate", "loss rate", "adjusted", "n", "p", "p (Holm)"]
    return Table(f"Pairs, {duels.judge}: from the first one's side; sign-flip test over questions", header, rows)


def _style(duels: Duels) -> list[Table]:
    style = duels.style
    if style is None:
        return []
    rows = [[each.model, f"{each.rate:.3f} [{each.low:.3f}, {each.high:.3f}]"] for each in style.strengths]
    rows += [[f"weight of {name}", f"{weight:+.3f}"] for name, weight in style.weights.items() if weight]
    return [Table(f"Style control, {duels.judge}: chance to win against {style.baseline}", ["", "value"], rows)]


def _judges(results: Results) -> list[Table]:
    found: list[Table] = []
    if results.duels:
        header = ["judge", "n", "consistent", "favours first", "favours second", "length correlation"]
        rows = [
            [
                each.judge,
                str(each.bias.n),
                _number(each.bias.consistency),
                str(each.bias.first),
                str(each.bias.second),
                _number(each.length_correlation, 2),
            ]
            for each in results.duels
        ]
        found.append(Table("Judges when answers are swapped", header, rows))
    if results.grades:
        rows = [[each.judge, _number(each.length_correlation, 2)] for each in results.grades]
        found.append(Table("Do longer answers get higher grades? (Spearman)", ["judge", "length correlation"], rows))
    if results.alike:
        header = ["judges", "of", "n", "equal", "alpha", "correlation", "mean distance"]
        rows = [
            [
                "all of them" if len(each.judges) > 2 else " : ".join(each.judges),
                each.kind,
                str(each.n),
                _number(each.equal),
                _number(each.alpha, 2),
                _number(each.correlation, 2),
                _number(each.distance, 2),
            ]
            for each in results.alike
        ]
        found.append(Table("Agreement between judges (Krippendorff's alpha, Spearman's correlation)", header, rows))
    return found


def _notes(results: Results) -> list[Table]:
    found: list[Table] = []
    if results.references:
        rows = [[name, str(count)] for name, count in results.references.items()]
        found.append(Table("Reference answers that judges saw", ["references", "judgments"], rows))
    if results.reasons:
        rows = [[reason, str(count)] for reason, count in sorted(results.reasons.items(), key=lambda each: -each[1])]
        found.append(Table("Not counted, and why", ["reason", "times"], rows))
    return found


def agreement_table(found: Sequence[Agreement]) -> Table:
    """Agreements of voters."""
    rows = [
        [
            f"{each.first} : {each.second}",
            "all" if each.models is None else " : ".join(each.models),
            str(each.turn),
            "S1, with ties" if each.ties else "S2, without ties",
            str(each.agree),
            str(each.total),
            _number(each.ratio, 2) + _bounds(each.low, each.high, ".2f"),
            _number(each.kappa, 2),
        ]
        for each in found
    ]
    header = ["voters", "models", "turn", "setup", "agree", "of", "agreement", "kappa"]
    return Table("Agreement (at random: S1 0.33, S2 0.50)", header, rows)


def as_markdown(found: Sequence[Table]) -> str:
    """A heading and a table each."""
    return "\n\n".join(f"### {table.title}\n\n{markdown(table.header, table.rows)}" for table in found) + "\n"


def to_terminal(found: Sequence[Table], console: Console) -> None:
    """Print them."""
    for table in found:
        console.print(f"\n{table.title}", style="bold", markup=False, highlight=False)
        rich = RichTable()
        for place, name in enumerate(table.header):
            rich.add_column(escape(name), justify="left" if place == 0 else "right", overflow="fold")
        for row in table.rows:
            rich.add_row(*(escape(cell) for cell in row))
        console.print(rich)
