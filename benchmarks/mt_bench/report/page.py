"""Puts the page together: plots, tables, and all questions with answers and judgments to look through."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Final

import msgspec

from benchmarks.mt_bench.duels import Duels
from benchmarks.mt_bench.grades import Grades
from benchmarks.mt_bench.jsonl import replace
from benchmarks.mt_bench.matches import Answers, answered_models, load_answers
from benchmarks.mt_bench.question_set import QuestionSet
from benchmarks.mt_bench.report import charts
from benchmarks.mt_bench.results import Results
from benchmarks.mt_bench.tables import Table, tables
from mesh.counted import counted

_TEMPLATE: Final = Path(__file__).parent / "page.html"
# More lines than these cannot be told apart in a radar.
_RADAR_MODELS: Final = 6
# Tables with more rows, such as those of all pairs, are closed at first.
_LONG: Final = 60


def write(path: Path, results: Results, questions: QuestionSet, folder: Path) -> None:
    """Write the page."""
    replace(path, [page(results, questions, load_answers(folder, answered_models(folder))).encode()])


def page(results: Results, questions: QuestionSet, answers: Answers) -> str:
    """The page as text."""
    # What models wrote cannot end the script element that holds it.
    data = msgspec.json.encode(_data(results, questions, answers)).decode().replace("<", "\\u003c")
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(results.bench),
        facts=_facts(results, questions),
        plots=_plots(results),
        tables="".join(map(_table, tables(results))),
        data=data,
    )


def _facts(results: Results, questions: QuestionSet) -> str:
    judges = ", ".join(dict.fromkeys(line.judge[0] for line in [*results.singles, *results.pairs]))
    references = ", ".join(results.references) or "none"
    lost = sum(results.reasons.values())
    facts = {
        "questions": str(results.questions),
        "models": str(len({model for each in [*results.grades, *results.duels] for model in _names(each)})),
        "judged by": judges,
        "judgments": f"{counted(len(results.singles), 'grade')}, {counted(len(results.pairs), 'comparison')}",
        "not counted": f"{lost:,}, see below" if lost else "none",
        "prompts": _brief(results.prompts),
        "references": references,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    return "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())


def _brief(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _names(found: Grades | Duels) -> list[str]:
    return [each.model for each in found.models]


def _plots(results: Results) -> str:
    colour = charts.colours(model for each in [*results.grades, *results.duels] for model in _names(each))
    graded = [_grades(grades, colour) for grades in results.grades]
    return "".join([*graded, *(_duels(duels, colour) for duels in results.duels)])


def _grades(grades: Grades, colour: Mapping[str, str]) -> str:
    bars = charts.bars([(each.model, each.overall) for each in grades.models], 0, 10, 2, colour)
    parts = [_figure("Scores", f"Mean of 1 to 10 by {grades.judge}, with intervals of 95 % over questions.", bars)]
    seen = {name for each in grades.models for name, mean in each.categories.items() if mean.n}
    categories = [name for name in grades.models[0].categories if name in seen]
    if len(categories) > 2:
        shown = grades.models[:_RADAR_MODELS]
        note = "" if len(shown) == len(grades.models) else f" The best {len(shown)} of {len(grades.models)} models."
        radar = charts.radar(categories, [(each.model, each.categories) for each in shown], colour)
        parts.append(
            _figure("By category", f"Mean by {grades.judge}.{note}", radar + _legend([m.model for m in shown], colour))
        )
    return f'<div class="plots">{"".join(parts)}</div>'


def _duels(duels: Duels, colour: Mapping[str, str]) -> str:
    bars = charts.bars([(each.model, each.record.adjusted) for each in duels.models], 0, 1, 3, colour)
    bias = duels.bias
    same = "-" if math.isnan(bias.consistency) else f"{bias.consistency:.0%}"
    about = (
        f"Adjusted win rate by {duels.judge}: a tie, or two verdicts that differ with the order, is half a win. "
        f"When answers are swapped, {same} of {bias.n:,} verdicts stay; {bias.first:,} "
        f"favour the first, {bias.second:,} the second."
    )
    order = list(dict.fromkeys(name for each in duels.contests for name in (each.first, each.second)))
    wide = len(order) > charts.FEW
    parts = [_figure("Win rates", about, bars, "beside" if wide else "")]
    rates: dict[tuple[str, str], float] = {}
    for each in duels.contests:
        rates[each.first, each.second] = each.record.adjusted.value
        rates[each.second, each.first] = 1 - each.record.adjusted.value
    parts.append(
        _figure(
            "Pairs", f"The row against the column, by {duels.judge}.", charts.heat(order, rates), "wide" if wide else ""
        )
    )
    return f'<div class="plots">{"".join(parts)}</div>'


def _figure(title: str, about: str, plot: str, kind: str = "") -> str:
    """`wide` has the whole width for its plot, `beside` for its words and its plot beside them."""
    return (
        f'<figure class="{kind}"><figcaption><h2>{title}</h2><p>{escape(about)}</p></figcaption>'
        f'<div class="scroll">{plot}</div></figure>'
    )


def _legend(models: Sequence[str], colour: Mapping[str, str]) -> str:
    items = "".join(f'<li><i style="background:{colour[name]}"></i>{escape(name)}</li>' for name in models)
    return f'<ul class="legend">{items}</ul>'


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.header)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    body = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    if len(table.rows) > _LONG:
        body = f"<details><summary>{len(table.rows)} rows</summary>{body}</details>"
    return f"<section><h3>{escape(table.title)}</h3>{body}</section>"


def _data(results: Results, questions: QuestionSet, answers: Answers) -> dict[str, Any]:
    """What the page's script looks through."""
    return {
        "questions": [
            {
                "id": question.id,
                "category": question.category,
                "turns": question.turns,
                "references": questions.references.turns.get(question.id),
            }
            for question in questions.questions
        ],
        "answers": {
            model: {str(id_): answer.choices[0].turns for id_, answer in by_question.items() if answer.choices}
            for model, by_question in answers.items()
        },
        "grades": [
            [line.question_id, line.turn, line.model, line.judge[0], line.score, line.unscored, line.judgment]
            for line in results.singles
        ],
        "pairs": [
            [
                *(line.question_id, line.turn, line.model_1, line.model_2, line.judge[0]),
                *(line.g1_winner, line.g2_winner, line.g1_judgment, line.g2_judgment),
            ]
            for line in results.pairs
        ],
    }
