"""Nothing gets lost: what a tool is given is kept, dropped with a reason, or told as unreadable, whatever it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.runner import Run
from training.data.segment import Named
from training.data.tool import DroppedItem, Item, Tool
from training.data.tools import TOOLS
from training.reading import BadRecord, Record

TOKENIZER = str(Path(__file__).parents[2] / "mesh/demo/models/mesh-demo")
QUESTION = "How many moons does the planet Jupiter have in all"
PIECES = (
    *(QUESTION, "Wie weit ist der Mond von der Erde entfernt?", "hello world ", "x", "", " ", "\n", "é🙂\u2028"),
    *("<p>one</p>", "1. a\n1. b\n1. c\n", "```\n", "As an AI language model, I cannot", "a@example.com", "\ufffd"),
)
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=4).map("".join)
ROLES = st.sampled_from(["user", "assistant", "system", "tool", "human", "gpt"])
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLES, "content": TEXTS}), max_size=6)
MORE = st.fixed_dictionaries({}, optional={"id": st.sampled_from(["1", "2"]), "model": st.sampled_from(["a", "b"])})
RECORDS = st.one_of(
    st.tuples(MESSAGES, MORE).map(lambda both: {"messages": both[0], **both[1]}),
    st.tuples(TEXTS, TEXTS, TEXTS, MORE).map(
        lambda four: {"prompt": four[0], "chosen": four[1], "rejected": four[2], **four[3]}
    ),
    st.sampled_from([None, 5, {}, {"messages": 5}, {"messages": [{"role": "nobody", "content": "x"}]}]),
)
OPTIONS: dict[str, dict[str, Any]] = {
    "decontaminate": {"ngram": 5},
    "language": {"skip": ("de",)},
    "model": {"name": ("a",)},
    "quality": {"blocked_word": ("hello",)},
    "sample": {"count": 2},
    "split": {"tokenizer": TOKENIZER, "max_tokens": 40},
}


@pytest.fixture(scope="module", params=sorted(TOOLS))
def tool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Named:
    options = dict(OPTIONS.get(request.param, {}))
    if request.param == "decontaminate":
        benchmark = tmp_path_factory.mktemp("benchmark") / "questions.txt"
        benchmark.write_text(QUESTION)
        options["benchmark"] = (benchmark,)
    made: Tool = TOOLS[request.param](**options)
    return Named(request.param, made)


def through(tools: Sequence[Named], values: list[Any]) -> tuple[Run, list[Item], list[DroppedItem], list[BadRecord]]:
    """All values through some tools, two at a time."""
    records = [Record(f"record {place}", json.dumps(value).encode()) for place, value in enumerate(values)]
    bad: list[BadRecord] = []
    dropped: list[DroppedItem] = []
    run = Run(tools, "openai", bad.append, dropped.append)
    kept = list(run.kept([records[place : place + 2] for place in range(0, len(records), 2)], processes=1))
    return run, kept, dropped, bad


@given(values=st.lists(RECORDS, max_size=4).map(lambda few: few + few[:2]))
@settings(max_examples=25, deadline=None)
def test_every_record_is_kept_dropped_or_unreadable(tool: Named, values: list[Any]) -> None:
    run, kept, dropped, bad = through([tool], values)
    (tally,) = run.tallies
    places = [f"record {place}" for place in range(len(values))]
    found = {item.origin for item in kept} | {one.item.origin for one in dropped} | {one.record.origin for one in bad}
    assert sorted(found) == places
    assert tally.taken + len(bad) == len(values)
    assert (tally.kept, tally.dropped.total()) == (len(kept), len(dropped))
    if tool.name != "split":  # which makes several of one
        assert len(kept) + len(dropped) + len(bad) == len(values)
    # What was kept and dropped can go in again.
    again = [json.loads(line) for line in (*(item.line for item in kept), *(one.item.line for one in dropped))]
    assert through([tool], again)[3] == []
