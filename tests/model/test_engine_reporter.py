"""What the event loop's side tells the engine's thread when a choice ends."""

from __future__ import annotations

from typing import Any, cast

from mesh.engine.base import Delta, Finished, Load, Request, Sampling, Step, Tokens
from mesh.engine.output import OutputTracker
from mesh.engine.text import Tokenizer
from mesh.engine.transformers.core import NewToken, Report
from mesh.engine.transformers.reporter import Reporter
from mesh.engine.transformers.thread import Command
from tests.model.tiny import EOS, make_tokenizer


class Recorder:
    """Stands where the engine's core is, and notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def send(self, command: Command) -> None:
        command(cast("Any", self))

    def grant(self, key: int, tokens: int) -> None:
        self.told.append(("grant", key, tokens))

    def end_choice(self, key: int, choice: int) -> None:
        self.told.append(("end", key, choice))

    def cancel(self, key: int) -> None:
        self.told.append(("cancel", key))


def reporter_of(n: int, *, credit: int | None = None) -> tuple[Recorder, Reporter]:
    recorder = Recorder()
    reporter = Reporter(recorder.send)
    sampling = Sampling(seed=0, n=n, stop=("b",), max_tokens=5)
    request = Request(1, "", "", Tokens((0,)), sampling, credit=credit)
    codec = Tokenizer(make_tokenizer(), [EOS])
    tracker = OutputTracker(request, codec, prompt_ids=[0], eos_token_ids=[EOS], context_length=99, arrived=0.0)
    reporter.add(tracker, refund=credit is not None)
    return recorder, reporter


def step(reporter: Reporter, *tokens: tuple[int, str, bool]) -> Step:
    """A step with (choice, letter, whether the thread ended the row)."""
    vocabulary = make_tokenizer().get_vocab()
    news = [NewToken(1, choice, vocabulary[letter], None, ended) for choice, letter, ended in tokens]
    return reporter.step(Report(1, 0.0, Load(), tokens=news))


def test_a_stop_string_ends_the_row_and_its_next_token_is_dropped() -> None:
    recorder, reporter = reporter_of(2, credit=5)
    assert step(reporter, (0, "a", False), (1, "a", False)).events
    step(reporter, (0, "b", False))
    assert recorder.told == [("end", 1, 0)]
    assert step(reporter, (0, "c", False)).events == []
    # The client never hears of the dropped token, so it cannot give its credit back.
    assert recorder.told[1:] == [("grant", 1, 1)]


def test_without_credit_nothing_is_given_back() -> None:
    recorder, reporter = reporter_of(2)
    step(reporter, (0, "b", False))
    step(reporter, (0, "c", False))
    assert recorder.told == [("end", 1, 0)]


def test_a_row_that_the_thread_ended_needs_no_command() -> None:
    recorder, reporter = reporter_of(1)
    vocabulary_end = NewToken(1, 0, EOS, None, ended=True)
    events = reporter.step(Report(1, 0.0, Load(), tokens=[vocabulary_end])).events
    assert isinstance(events[0], Delta)
    assert isinstance(events[-1], Finished)
    assert recorder.told == []
    assert 1 not in reporter


def test_a_disagreement_about_the_end_fails_the_request(caplog: Any) -> None:
    recorder, reporter = reporter_of(1)
    events = step(reporter, (0, "a", True)).events
    assert [type(event).__name__ for event in events] == ["Delta", "Failed"]
    assert recorder.told == [("cancel", 1)]
    assert "its output did not" in caplog.text
