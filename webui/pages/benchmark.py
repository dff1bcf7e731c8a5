"""The page Benchmark: questions, answers and judgments of a run of `mesh mtbench`."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from benchmarks.mt_bench import browser
from benchmarks.mt_bench.jsonl import BadFile
from benchmarks.mt_bench.question_set import load


def build(folder: Path, bench: str) -> None:
    """Draw it. `bench` is the set of the run: shipped, a folder of ./data, or a path."""
    try:
        questions = load(bench, Path("data"))
    except BadFile as error:
        gr.Markdown(f"# The benchmark cannot be shown\n\n{error}")
        return
    gr.Markdown(f"# {questions.name}")
    browser.build(questions, folder)
