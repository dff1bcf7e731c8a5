"""The fault bench: what it spoils is spoilt, what it sees is what was sent, and a run tells of both."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from contextlib import aclosing, nullcontext
from pathlib import Path

import pytest

from benchmarks.faults.report import table
from benchmarks.faults.scenarios import SCENARIOS
from benchmarks.faults.stage import Outcome
from benchmarks.systems.answer import Answer
from benchmarks.systems.session_proxy import Armed, Spoiler
from benchmarks.systems.system import Fault, FaultKind
from benchmarks.systems.workers.scripted import POISON, Cut, Scripted
from mesh.v1 import inference_pb2 as pb

ROOT = Path(__file__).resolve().parent.parent.parent
WORDS = ("a", "b", "c", "d")
UNDISTURBED = ["started", *WORDS, "choice_finished", "finished 4"]


def message(**event: object) -> pb.SessionResponse:
    """What a worker sends: an event of the victim, and one of a stream that nobody meant."""
    events = [pb.StreamEvent(stream_id=1, **event), pb.StreamEvent(stream_id=2, delta=pb.Delta(text="other"))]  # pyright: ignore[reportArgumentType]
    return pb.SessionResponse(events=events)


def answer() -> list[pb.SessionResponse]:
    """The messages of an answer of four tokens."""
    return [
        message(started=pb.Started(fingerprint="f")),
        *(message(delta=pb.Delta(text=word, token_ids=[1])) for word in WORDS),
        message(choice_finished=pb.ChoiceFinished()),
        message(finished=pb.Finished(usage=pb.Usage(completion_tokens=len(WORDS)))),
    ]


def seen(messages: list[pb.SessionResponse | bytes], stream: int) -> list[str]:
    """What a gateway gets of a stream."""
    found: list[str] = []
    for each in messages:
        if isinstance(each, bytes):
            found.append("?")
            continue
        for event in each.events:
            if event.stream_id == stream:
                kind = event.WhichOneof("event") or ""
                count = f" {event.finished.usage.completion_tokens}" if kind == "finished" else ""
                found.append(event.delta.text if kind == "delta" else kind + count)
    return found


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("stall", ["started", "a", "b"]),
        ("garbage", ["started", "a", "b", "?", "c", "d", "choice_finished", "finished 4"]),
        ("nonsense", ["started", "a", "b", "c", "?", "d", "choice_finished", "finished 4"]),
        ("duplicate", ["started", "a", "b", "c", "c", "d", "choice_finished", "finished 4"]),
        ("out_of_order", ["started", "a", "b", "d", "c", "choice_finished", "finished 4"]),
        ("no_finish", ["started", "a", "b", "c", "d"]),
        ("wrong_usage", ["started", "a", "b", "c", "d", "choice_finished", "finished 11"]),
        ("wrong_model", ["started", *[" another"] * 4, "choice_finished", "finished 4"]),
        ("exhausted", ["failed"]),
    ],
)
async def test_a_fault_spoils_one_stream_once_and_no_other(kind: FaultKind, expected: list[str]) -> None:
    sent: list[pb.SessionResponse | bytes] = []

    async def write(each: pb.SessionResponse | bytes) -> None:
        sent.append(pb.SessionResponse.FromString(each.SerializeToString()) if not isinstance(each, bytes) else each)

    armed = Armed()
    armed.fault = Fault(kind, after=2)
    spoiler = Spoiler(write, armed, kill=lambda: None)
    passed_on = await spoiler.start(pb.StreamStart(stream_id=1))
    assert await spoiler.start(pb.StreamStart(stream_id=2))
    for each in answer() if passed_on else ():
        await spoiler.message(each)
    assert seen(sent, 1) == expected
    if passed_on:
        assert len(seen(sent, 2)) >= len(UNDISTURBED)


async def test_a_cut_ends_the_session_and_poison_the_worker() -> None:
    killed: list[bool] = []

    async def write(each: pb.SessionResponse | bytes) -> None:
        pass

    armed = Armed()
    armed.fault = Fault("cut", after=0)
    spoiler = Spoiler(write, armed, kill=lambda: killed.append(True))
    await spoiler.start(pb.StreamStart(stream_id=1))
    start = pb.StreamStart(stream_id=2)
    start.request.sampling.temperature = POISON
    await spoiler.start(start)
    await spoiler.message(answer()[0])
    assert killed, "a stream of that request has begun"
    with pytest.raises(ConnectionError):
        await spoiler.message(answer()[1])


@pytest.mark.parametrize(
    ("kind", "places"),
    [
        ("", [5, 6, 7, 8]),
        ("out_of_order", [5, 6, 8, 7]),
        ("duplicate", [5, 6, 6, 7, 8]),
        ("cut", [5, 6]),
    ],
)
async def test_a_peers_worker_spoils_what_it_is_told_to(tmp_path: Path, kind: str, places: list[int]) -> None:
    if kind:
        (tmp_path / "armed").write_text(json.dumps({"kind": kind, "after": 2}))
    scripted = Scripted(argparse.Namespace(name="a", folder=tmp_path, step=0.0, prefill=0.0))
    seen: list[int] = []
    with pytest.raises(Cut) if kind == "cut" else nullcontext():
        async for item in scripted.answer(0.0, 5, 4):
            seen += [item.place] if item.kind == "token" else []
    assert seen == places


async def test_a_peers_worker_begins_an_answer_without_end_at_once(tmp_path: Path) -> None:
    scripted = Scripted(argparse.Namespace(name="a", folder=tmp_path, step=0.0, prefill=0.0))
    async with aclosing(scripted.answer(0.0, 5, 10**15)) as items:
        assert (await anext(items)).place == 5


def test_an_answer_says_in_what_it_differs() -> None:
    def read(*events: str) -> Answer:
        found = Answer()
        for event in events:
            found.add(event)
        return found

    def chunk(text: str, **choice: str) -> str:
        return json.dumps({"choices": [{"delta": {"content": text}, **choice}]})

    whole = read(chunk("a"), chunk("b", finish_reason="stop"), "[DONE]")
    assert whole.differs(whole) == ""
    assert "text" in read(chunk("a"), chunk("c", finish_reason="stop"), "[DONE]").differs(whole)
    assert "finish" in read(chunk("a"), chunk("b"), "[DONE]").differs(whole)
    assert "DONE" in read(chunk("a"), chunk("b", finish_reason="stop")).differs(whole)
    usage = json.dumps({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
    assert "usage" in read(chunk("a"), chunk("b", finish_reason="stop"), usage, "[DONE]").differs(whole)
    assert read(chunk("a"), '{"error": {}}', "[DONE]").differs(whole) == "error event after 1 chunk"


def test_the_table_has_a_reason_for_each_answer_of_ours_that_is_not_identical() -> None:
    scenarios = [SCENARIOS["worker-killed"], SCENARIOS["cut"]]
    good, bad = Outcome(asked=2, identical=2, extra=[0.5, -0.1]), Outcome(asked=1, troubles={"HTTP 502": 1})
    text = table(scenarios, ["ours", "smg"], {"worker-killed": {"ours": good, "smg": bad}, "cut": {"ours": bad}})
    assert "2 of 2 identical; +0.50 s" in text
    assert text.count("0 of 1 identical; HTTP 502") == 2
    assert "cut, ours:" in text
    assert "worker-killed, ours:" not in text


@pytest.mark.timeout(90)
def test_a_run(tmp_path: Path) -> None:
    data = tmp_path / "run.json"
    command = [sys.executable, "-m", "benchmarks.faults", "--scenario", "cut", "--tokens", "4", "--json", str(data)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=80, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    (outcome,) = json.loads(data.read_text())["outcomes"]
    assert (outcome["scenario"], outcome["system"], outcome["notes"]) == ("cut", "ours", [])
    assert outcome["identical"] == outcome["asked"] == 3, outcome
    assert "3 of 3 identical" in done.stdout
