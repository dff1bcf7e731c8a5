"""The events of a response: however its text is cut into tokens, they add up to the same response."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.openai.parts import PartOptions
from gateway.openai.responses.answer import begun
from gateway.openai.responses.events import ResponseEvents
from gateway.openai.responses.items import Item, kept, sealed, unsealed
from gateway.openai.responses.schema import ResponseRequest
from gateway.openai.responses.tools import Toolbox
from mesh.answer import Event
from mesh.v1 import inference_pb2 as pb

TOOLS: list[dict[str, Any]] = [{"type": "function", "name": "f"}]
ANSWER = '<think>let me see</think>Well, é "so".<tool_call>{"name": "f", "arguments": {"a": [1, "é"]}}</tool_call>'


def renderer(**options: Any) -> ResponseEvents:
    request = ResponseRequest(model="m", input="hi", tools=TOOLS)
    toolbox = Toolbox(TOOLS)
    parts = PartOptions({"f": {}}, reasoned=True, hidden=False)
    return ResponseEvents(begun(request, toolbox, "resp_1", 5, store=False), toolbox, options=parts, **options)


def events_of(pieces: Sequence[str], reason: pb.FinishReason = pb.FINISH_REASON_STOP) -> list[Event]:
    """What a worker says with these pieces of text, a token each."""
    markup = pb.Markup(tool_parser="hermes", reasoning_parser="think")
    found: list[Event] = [pb.Started(prompt_tokens=3, fingerprint="f", markup=markup)]
    found += [pb.Delta(text=piece, token_ids=[place]) for place, piece in enumerate(pieces)]
    found.append(pb.ChoiceFinished(reason=reason))
    return [*found, pb.Finished(usage=pb.Usage(prompt_tokens=3, completion_tokens=len(pieces)))]


def told(data: bytes) -> list[dict[str, Any]]:
    """The events as objects; each under its own name."""
    found: list[dict[str, Any]] = []
    for block in data.decode().split("\n\n")[:-1]:
        name, line = block.split("\n")
        found.append(json.loads(line.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


@given(st.lists(st.integers(0, len(ANSWER)), max_size=20), st.booleans())
def test_any_chunking_makes_the_same_response(cuts: list[int], summarized: bool) -> None:
    places = [0, *sorted(cuts), len(ANSWER)]
    pieces = [ANSWER[begin:end] for begin, end in pairwise(places) if begin < end]
    events = renderer(summarized=summarized)
    found = told(events.render(events_of(pieces)))
    whole = renderer(summarized=summarized)
    whole.add(events_of([ANSWER]))
    assert events.answer().output == whole.answer().output == found[-1]["response"]["output"]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    reasoning, message, call = events.answer().output
    assert joined(found, "reasoning") == text_of(reasoning["summary" if summarized else "content"]) == "let me see"
    assert joined(found, "output_text") == text_of(message["content"]) == 'Well, é "so".'
    assert json.loads(joined(found, "function_call")) == json.loads(call["arguments"]) == {"a": [1, "é"]}


def joined(found: Sequence[dict[str, Any]], kind: str) -> str:
    """The deltas of a kind, one after the other."""
    wanted = f"response.{kind}"
    return "".join(each["delta"] for each in found if each["type"].startswith(wanted) and "delta" in each)


def text_of(parts: Sequence[dict[str, Any]]) -> str:
    return "".join(part["text"] for part in parts)


def test_each_item_is_opened_and_closed_in_order() -> None:
    found = told(renderer().render(events_of(list(ANSWER))))
    marks = [
        (event["type"].rpartition(".")[2], event["output_index"], event["item"]["id"])
        for event in found
        if "output_item" in event["type"]
    ]
    assert [(kind, place) for kind, place, _ in marks] == [(kind, n) for n in range(3) for kind in ("added", "done")]
    assert all(first[2] == second[2] for first, second in zip(marks[::2], marks[1::2], strict=True))
    assert {event["item_id"] for event in found if "item_id" in event} == {each[2] for each in marks}


def test_an_item_that_was_cut_is_incomplete_and_those_before_are_not() -> None:
    events = renderer()
    events.render(events_of(["<think>a</think>", "b"], pb.FINISH_REASON_LENGTH))
    response = events.answer()
    assert (response.status, response.incomplete_details) == ("incomplete", {"reason": "max_output_tokens"})
    assert [item.get("status") for item in response.output] == [None, "incomplete"]


def test_an_answer_without_text_has_no_items() -> None:
    events = renderer()
    kinds = [event["type"] for event in told(events.render(events_of([])))]
    assert kinds == ["response.created", "response.in_progress", "response.completed"]
    assert events.answer().output == []


@pytest.mark.parametrize("text", ["", "é\n"])
def test_what_is_sealed_is_read_again(text: str) -> None:
    assert unsealed(sealed(text)) == text
    assert unsealed("of another server") == ""
    assert Item(type="reasoning", encrypted_content=sealed(text), summary=[]).reasoning == text


def test_kept_items_have_ids_and_parts() -> None:
    found = kept(Item(role="assistant", content="x"), "1")
    part: dict[str, Any] = {"type": "output_text", "text": "x", "annotations": [], "logprobs": []}
    assert found == {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [part]}
    assert kept(Item(id="own", role="user", content="x"), "1")["id"] == "own"
