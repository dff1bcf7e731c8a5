"""A page for looking through questions, answers and judgments: alone, or as a part of any Gradio application.

with gr.Blocks() as application, gr.Tab("MT-bench"):
    browser.build(questions, folder)
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import gradio as gr
from gradio.themes import Soft

from benchmarks.mt_bench.matches import Answers, answered_models, load_answers
from benchmarks.mt_bench.question_set import QuestionSet
from benchmarks.mt_bench.questions import Question
from benchmarks.mt_bench.records import Judgment, Pair, Single, all_judgments
from benchmarks.mt_bench.results import collect
from benchmarks.mt_bench.tables import Table, tables
from benchmarks.table import markdown

_ALL: Final = "all"
# Tables with more rows, such as those of all pairs, are left to the report.
_LONG: Final = 60
# What Gradio's look lacks: wide tables scroll on a phone instead of breaking words, a long name ends before the arrow.
_STYLE: Final = """<style>
#mtbench-results table { display: block; overflow-x: auto; max-width: 100%; width: max-content; border: 0; padding: 0; }
#mtbench-results :is(th, td) { white-space: nowrap; padding: 4px 10px; }
[id^="mtbench-"] input { padding-right: 1.8em; text-overflow: ellipsis; }
.mtbench-judged .label-wrap { text-align: left; }
</style>"""
_MATHS: Final = [{"left": "$$", "right": "$$", "display": True}, {"left": "\\(", "right": "\\)", "display": False}]


def build(questions: QuestionSet, folder: Path) -> None:
    """Draw the page in the Blocks, tab or route around. Files are read again whenever something is chosen."""
    models = answered_models(folder)
    categories = list(dict.fromkeys(question.category for question in questions.questions))
    with gr.Row():
        category = gr.Dropdown([_ALL, *categories], value=_ALL, label="Category", elem_id="mtbench-category")
        question = gr.Dropdown(
            _labels(questions, _ALL),
            value=str(questions.questions[0].id),
            label="Question",
            scale=3,
            min_width=300,
            elem_id="mtbench-question",
        )
        left = gr.Dropdown(models, value=_at(models, 0), label="Left", elem_id="mtbench-left")
        right = gr.Dropdown(models, value=_at(models, 1), label="Right", elem_id="mtbench-right")

    def choose(chosen: str) -> gr.Dropdown:
        labels = _labels(questions, chosen)
        return gr.Dropdown(choices=labels, value=labels[0][1])

    category.change(choose, category, question, show_progress="hidden")

    @gr.render(inputs=[question, left, right], show_progress="hidden")
    def show(chosen: str | None, first: str | None, second: str | None) -> None:  # pyright: ignore[reportUnusedFunction]
        asked = next((each for each in questions.questions if str(each.id) == chosen), None)
        if asked is not None:
            _question(asked, questions, folder, [model for model in dict.fromkeys((first, second)) if model])

    gr.Markdown(lambda: _results(questions, folder), elem_id="mtbench-results")
    gr.HTML(_STYLE, padding=False)


def serve(questions: QuestionSet, folder: Path, host: str, port: int) -> None:
    """Serve the page alone, until Ctrl-C."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here needs the hub
    title = f"{questions.name}: answers and judgments"
    with gr.Blocks(title=title, analytics_enabled=False) as blocks:
        gr.Markdown(f"# {title}")
        build(questions, folder)
    port = port or _free_port(host)
    print(f"http://{host}:{port}", flush=True)
    blocks.launch(
        server_name=host,
        server_port=port,
        quiet=True,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        theme=Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
    )


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as probe:
        return int(probe.getsockname()[1])


def _at(models: Sequence[str], place: int) -> str | None:
    return models[min(place, len(models) - 1)] if models else None


def _labels(questions: QuestionSet, category: str) -> list[tuple[str, str]]:
    shown = [each for each in questions.questions if category in (_ALL, each.category)]
    return [(f"{each.id} · {' '.join(each.turns[0].split())[:80]}", str(each.id)) for each in shown]


def _results(questions: QuestionSet, folder: Path) -> str:
    """The first table of each judge, or why there is none."""
    try:
        found = tables(collect(folder, questions))
    except ValueError as error:
        return f"No results yet: {_plain(str(error))}"
    wanted = [table for table in found if table.title.startswith(("Scores", "Win rates", "Pairs", "Not counted"))]
    return "\n\n".join(map(_table, wanted))


def _table(table: Table) -> str:
    if len(table.rows) > _LONG:
        shown = f"{len(table.rows)} rows, in the report and in the terminal (`mesh mtbench report`, `show`)"
    else:
        shown = markdown(table.header, [[_plain(cell) for cell in row] for row in table.rows])
    return f"### {_plain(table.title)}\n\n{shown}"


def _question(question: Question, questions: QuestionSet, folder: Path, models: Sequence[str]) -> None:
    """One question with the answers of one or two models and what judges said about them."""
    answers = load_answers(folder, models)
    graded = _about(all_judgments(folder, Single), question)
    compared = [
        line for line in _about(all_judgments(folder, Pair), question) if {line.model_1, line.model_2} == {*models}
    ]
    references = questions.references.turns.get(question.id)
    for turn, text in enumerate(question.turns, 1):
        gr.Markdown(f"## Turn {turn}\n\n{_quote(text)}")
        if references is not None and turn <= len(references):
            with gr.Accordion("Reference answer", open=False):
                gr.Markdown(references[turn - 1], latex_delimiters=_MATHS)
        with gr.Row():
            for model in models:
                with gr.Column():
                    _answer(model, turn, question, answers, graded)
        for line in compared:
            if line.turn == turn:
                _games(line)


def _answer(model: str, turn: int, question: Question, answers: Answers, graded: Iterable[Single]) -> None:
    gr.Markdown(f"### {_plain(model)}")
    answer = answers[model].get(question.id)
    turns = answer.choices[0].turns if answer is not None and answer.choices else []
    text = turns[turn - 1] if turn <= len(turns) else "*no answer*"
    gr.Markdown(text, container=True, latex_delimiters=_MATHS, elem_classes="mtbench-answer")
    for line in graded:
        if (line.model, line.turn) == (model, turn):
            score = f"{line.score} of 10" if line.scored else f"no verdict ({line.unscored or 'no reason given'})"
            with gr.Accordion(f"{line.judge[0]}: {score}", open=False, elem_classes="mtbench-judged"):
                gr.Markdown(line.judgment)


def _games(line: Pair) -> None:
    """Both games of a comparison."""
    names = {"model_1": line.model_1, "model_2": line.model_2, "tie": "tie", "error": "no verdict"}
    games = (
        (line.model_1, line.model_2, line.g1_winner, line.g1_judgment),
        (line.model_2, line.model_1, line.g2_winner, line.g2_judgment),
    )
    for first, second, winner, words in games:
        title = f"{line.judge[0]}, A is {first}, B is {second}: {names[winner]}"
        with gr.Accordion(title, open=False, elem_classes="mtbench-judged"):
            gr.Markdown(words)


def _about(lines: Iterable[Judgment], question: Question) -> list[Judgment]:
    return [line for line in lines if line.question_id == question.id]


def _quote(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.splitlines())


def _plain(text: str) -> str:
    """A name is no markup."""
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>|#" else sign for sign in text)
