"""From tokens to events: ends, usage, and the property that failover rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.engine.base import (
    Chat,
    ChoiceFinished,
    Delta,
    Event,
    Finished,
    FinishReason,
    Message,
    Output,
    Progress,
    Prompt,
    Request,
    Sampling,
    Started,
    Text,
    Tokens,
)
from mesh.engine.output import OutputTracker, check_token_ids, completion_limit
from mesh.engine.script import BEGIN, END, VOCAB_SIZE, ScriptCodec
from mesh.errors import ErrorKind, MeshError

CODEC = ScriptCodec()
CONTEXT = 40
PROMPT = Text("the sea ")


def ids_of(text: str) -> list[int]:
    return CODEC.encode(text, add_special_tokens=False)


def make_request(prompt: Prompt = PROMPT, output: Output | None = None, **sampling: Any) -> Request:
    return Request(1, "r", "", prompt, Sampling(seed=1, **sampling), output or Output())


def make_tracker(request: Request, **changes: Any) -> OutputTracker:
    prompt_ids = CODEC.encode(PROMPT.text)
    arguments: dict[str, Any] = {"prompt_ids": prompt_ids, "eos_token_ids": (END,), "context_length": CONTEXT}
    arguments.update(changes)
    return OutputTracker(request, CODEC, arrived=10.0, **arguments)


def run(request: Request, tokens: Mapping[int, Sequence[int]], **changes: Any) -> list[Event]:
    """All events when each choice gets its tokens, in turn, until it ends or has no more."""
    tracker = make_tracker(request, **changes)
    events: list[Event] = []
    tracker.started(events, 11.0)
    for step in range(max(map(len, tokens.values()), default=0)):
        for choice, ids in tokens.items():
            if step < len(ids):
                tracker.push(events, choice, ids[step], 12.0 + step)
    return events


def text_of(events: Sequence[Event], choice: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta) and event.choice == choice)


def tokens_of(events: Sequence[Event], choice: int = 0) -> list[int]:
    deltas = [event for event in events if isinstance(event, Delta) and event.choice == choice]
    return [token_id for delta in deltas for token_id in delta.token_ids]


def positions_of(events: Sequence[Event], choice: int = 0) -> list[int | None]:
    return [event.position for event in events if isinstance(event, Delta) and event.choice == choice]


def end_of(events: Sequence[Event], choice: int = 0) -> ChoiceFinished:
    (end,) = [event for event in events if isinstance(event, ChoiceFinished) and event.choice == choice]
    return end


def test_an_answer_from_start_to_end() -> None:
    events = run(make_request(), {0: [*ids_of(" was"), *ids_of(" big"), END, 65]})
    assert events == [
        Started(1, 6, 0, [], ()),
        Delta(1, 0, (ids_of(" was")[0],), " was", position=0),
        Delta(1, 0, (ids_of(" big")[0],), " big", position=1),
        Delta(1, 0, (END,), "", position=2),
        ChoiceFinished(1, 0, FinishReason.STOP, stop_token_id=END, tokens=3),
        Finished(1, 6, 3, 0, queue_time=1.0, prefill_time=1.0, decode_time=2.0),
    ]


@pytest.mark.parametrize(
    ("sampling", "text", "end"),
    [
        ({"max_tokens": 3}, "abc", ChoiceFinished(1, 0, FinishReason.LENGTH)),
        ({"stop": ("d",)}, "abc", ChoiceFinished(1, 0, FinishReason.STOP, stop_string="d")),
        ({"stop": ("de", "cdx")}, "abc", ChoiceFinished(1, 0, FinishReason.STOP, stop_string="de")),
        ({"stop": ("de",), "include_stop": True}, "abcde", ChoiceFinished(1, 0, FinishReason.STOP, "de")),
        ({"stop": ("dex",), "max_tokens": 5}, "abcde", ChoiceFinished(1, 0, FinishReason.LENGTH)),
        ({"stop": ("hx",)}, "abcdefgh", ChoiceFinished(1, 0, FinishReason.STOP, stop_token_id=END)),
        ({"stop_token_ids": (ord("c"),)}, "ab", ChoiceFinished(1, 0, FinishReason.STOP, stop_token_id=ord("c"))),
        (
            {"stop_token_ids": (ord("c"),), "include_stop": True},
            "abc",
            ChoiceFinished(1, 0, FinishReason.STOP, stop_token_id=ord("c")),
        ),
        (
            {"stop_token_ids": (ord("c"),), "min_tokens": 3},
            "abcdefgh",
            ChoiceFinished(1, 0, FinishReason.STOP, stop_token_id=END),
        ),
        (
            {"stop_token_ids": (ord("c"),), "min_tokens": 2},
            "ab",
            ChoiceFinished(1, 0, FinishReason.STOP, stop_token_id=ord("c")),
        ),
        ({"stop": ("b", "g"), "min_tokens": 3}, "abcdef", ChoiceFinished(1, 0, FinishReason.STOP, stop_string="g")),
        ({"ignore_eos": True, "max_tokens": 10}, "abcdefghX", ChoiceFinished(1, 0, FinishReason.LENGTH)),
        (
            {"ignore_eos": True, "max_tokens": 10, "keep_special_tokens": True},
            "abcdefgh<|end|>X",
            ChoiceFinished(1, 0, FinishReason.LENGTH),
        ),
        ({"keep_special_tokens": True}, "abcdefgh", ChoiceFinished(1, 0, FinishReason.STOP, stop_token_id=END)),
    ],
    ids=str,
)
def test_every_way_to_end(sampling: dict[str, Any], text: str, end: ChoiceFinished) -> None:
    events = run(make_request(**sampling), {0: [*b"abcdefgh", END, *b"XYZ"]})
    assert text_of(events) == text
    assert end_of(events) == replace(end, tokens=len(tokens_of(events)))
    assert isinstance(events[-1], Finished)


def test_the_end_of_the_context_is_the_limit() -> None:
    events = run(make_request(max_tokens=1000), {0: list(b"x" * 100)})
    assert end_of(events).reason is FinishReason.LENGTH
    assert len(tokens_of(events)) == CONTEXT - len(CODEC.encode(PROMPT.text))


def test_a_prompt_that_fills_the_context_is_refused_with_both_numbers() -> None:
    with pytest.raises(MeshError, match=r"has 40 tokens.* this model's maximum context length is 40 tokens") as caught:
        completion_limit(Sampling(seed=1), 40, 40)
    assert caught.value.kind is ErrorKind.CONTEXT_LENGTH_EXCEEDED
    assert completion_limit(Sampling(seed=1), 39, 40) == 1


def test_an_incomplete_character_comes_out_at_the_end() -> None:
    events = run(make_request(max_tokens=2), {0: [ord("a"), 0xE2]})
    assert text_of(events) == "a\ufffd"


def test_choices_end_one_by_one_and_usage_is_their_sum() -> None:
    events = run(make_request(n=2), {0: [65, END], 1: [66, 67, 68, END]})
    ends = [event.choice for event in events if isinstance(event, ChoiceFinished)]
    assert ends == [0, 1]
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert (finished.prompt_tokens, finished.completion_tokens) == (6, 6)


def test_tokens_after_the_end_are_dropped() -> None:
    tracker = make_tracker(make_request(max_tokens=1, n=2))
    events: list[Event] = []
    tracker.started(events, 0)
    assert tracker.push(events, 0, 65, 0) is True
    before = len(events)
    assert tracker.push(events, 0, 66, 0) is True
    assert len(events) == before
    assert tracker.open_choices == [1]
    assert not tracker.finished


def test_logprobs_carry_the_bytes_of_tokens() -> None:
    tracker = make_tracker(make_request(output=Output(logprobs=2)))
    events: list[Event] = []
    tracker.push(events, 0, 0xE2, 0, (-0.5, [(0xE2, -0.5), (END, -1.5)]))
    (delta,) = events
    assert isinstance(delta, Delta)
    assert delta.logprobs is not None
    (report,) = delta.logprobs
    assert (report.token_id, report.logprob, report.token) == (0xE2, -0.5, b"\xe2")
    assert [(top.token_id, top.logprob, top.token) for top in report.top] == [
        (0xE2, -0.5, b"\xe2"),
        (END, -1.5, b"<|end|>"),
    ]


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (Text("the sea "), "the sea  was"),
        (Tokens(tuple(CODEC.encode(" the sea"))), " the sea was"),
    ],
    ids=["text", "tokens"],
)
def test_echo_begins_with_the_prompt(prompt: Prompt, text: str) -> None:
    ids = prompt.ids if isinstance(prompt, Tokens) else CODEC.encode(PROMPT.text)
    request = make_request(prompt, Output(echo=True))
    events = run(request, {0: [*ids_of(" was"), END]}, prompt_ids=ids)
    assert text_of(events) == text
    resumed = run(
        replace(request, resume={0: Progress((ids_of(" was")[0],))}), {0: [*ids_of(" was"), END]}, prompt_ids=ids
    )
    assert text_of(resumed) == " was"


def test_an_answer_of_its_own_begins_without_a_space_a_continuation_with_one() -> None:
    turn = Chat((Message("user", ("hi",)),))
    open_turn = replace(turn, add_generation_prompt=False, continue_final_message=True)
    assert text_of(run(make_request(turn), {0: ids_of(" was")})) == "was"
    assert text_of(run(make_request(open_turn), {0: ids_of(" was")})) == " was"
    assert text_of(run(make_request(Text("a")), {0: ids_of(" was")})) == " was"
    assert text_of(run(make_request(Text("")), {0: ids_of(" was")}, prompt_ids=[BEGIN])) == "was"


def test_prompt_token_ids_on_request() -> None:
    started = run(make_request(output=Output(prompt_token_ids=True)), {})[0]
    assert isinstance(started, Started)
    assert list(started.prompt_token_ids) == CODEC.encode(PROMPT.text)


def test_a_choice_that_had_finished_counts_for_usage_only() -> None:
    request = replace(make_request(n=2), resume={0: Progress((65, 66, END), finished=True)})
    events = run(request, {1: [65, END]})
    assert {event.choice for event in events if isinstance(event, Delta | ChoiceFinished)} == {1}
    assert isinstance(events[-1], Finished)
    assert events[-1].completion_tokens == 5


def test_when_all_had_finished_only_the_end_is_said() -> None:
    request = replace(make_request(), resume={0: Progress((65, END), finished=True)})
    assert [type(event) for event in run(request, {})] == [Started, Finished]


def test_tokens_after_an_end_make_no_resume() -> None:
    with pytest.raises(MeshError, match="'resume' of choice 0 holds tokens after the end") as caught:
        make_tracker(replace(make_request(), resume={0: Progress((65, END, 66))}))
    assert caught.value.param == "resume"


@pytest.mark.parametrize(
    ("sampling", "param"),
    [({"logit_bias": {VOCAB_SIZE: 1.0}}, "logit_bias"), ({"stop_token_ids": (-1,)}, "stop_token_ids")],
)
def test_options_that_name_unknown_tokens_are_refused(sampling: dict[str, Any], param: str) -> None:
    with pytest.raises(MeshError, match=f"must be between 0 and {VOCAB_SIZE - 1}") as caught:
        check_token_ids(Sampling(seed=1, **sampling), VOCAB_SIZE)
    assert caught.value.param == param


TOKEN_LISTS = st.lists(
    st.one_of(st.sampled_from([*b"abcd", *ids_of(" the"), END]), st.sampled_from([0xE2, 0x82, 0xAC, BEGIN])),
    max_size=25,
)
OPTIONS = st.fixed_dictionaries(
    {
        "stop": st.lists(st.text("abcd €", min_size=1, max_size=4), max_size=3).map(tuple),
        "max_tokens": st.one_of(st.none(), st.integers(1, 20)),
        "min_tokens": st.integers(0, 5),
        "stop_token_ids": st.sampled_from([(), (ord("d"),)]),
        "ignore_eos": st.booleans(),
        "include_stop": st.booleans(),
        "keep_special_tokens": st.booleans(),
    }
)


@given(
    options=OPTIONS,
    echo=st.booleans(),
    first=TOKEN_LISTS,
    second=TOKEN_LISTS,
    cuts=st.tuples(st.integers(0, 25), st.integers(0, 25)),
)
def test_after_a_resume_at_any_token_the_client_has_what_it_would_have_had(
    options: dict[str, Any], echo: bool, first: list[int], second: list[int], cuts: tuple[int, int]
) -> None:
    """First attempt: any number of tokens of each choice, whose end may have got lost. Second: the rest."""
    tokens = {0: first, 1: second}
    request = make_request(output=Output(echo=echo), n=2, **options)
    whole = run(request, tokens)
    arrived = [tokens_of(whole, choice)[: cuts[choice]] for choice in (0, 1)]
    before = run(request, dict(enumerate(arrived)))
    resume = {choice: Progress(tuple(ids)) for choice, ids in enumerate(arrived) if ids}
    rest = {choice: tokens[choice][len(arrived[choice]) :] for choice in (0, 1)}
    after = run(replace(request, resume=resume), rest)
    for choice in (0, 1):
        assert text_of(before, choice) + text_of(after, choice) == text_of(whole, choice)
        assert arrived[choice] + tokens_of(after, choice) == tokens_of(whole, choice)
        places = positions_of(before, choice) + positions_of(after, choice)
        assert places == list(range(len(tokens_of(whole, choice))))
        ends = [event for event in whole if isinstance(event, ChoiceFinished) and event.choice == choice]
        assert [event for event in after if isinstance(event, ChoiceFinished) and event.choice == choice] == ends
    if isinstance(whole[-1], Finished):
        assert isinstance(after[-1], Finished)
        assert after[-1].completion_tokens == whole[-1].completion_tokens


def test_the_end_of_the_prompt_is_told_with_its_special_tokens() -> None:
    ids = [*ids_of(" sea" * 20), BEGIN]
    (started,) = run(make_request(output=Output(prompt_end=True)), {}, prompt_ids=ids)
    assert isinstance(started, Started)
    assert started.prompt_end == " sea" * 15 + "<|begin|>"


def test_marks_among_the_special_tokens_stay_in_the_text() -> None:
    request = make_request(kept_tokens=("<|tool|>",))
    assert text_of(run(request, {0: [BEGIN, 261, *ids_of(" sea")]})) == "<|tool|> sea"
