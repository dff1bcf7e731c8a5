"""The bytes of a streamed answer."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.openai.chat_collect import ChatCollector
from gateway.openai.chat_events import ChatEvents
from gateway.openai.logprobs import ChatLogprobs
from gateway.openai.parts import PartOptions
from mesh.answer import Event
from mesh.v1 import inference_pb2 as pb

PLAIN: dict[str, Any] = {"options": PartOptions(None, reasoned=False, hidden=False), "reasoning_fields": ()}
STARTED = pb.Started(prompt_tokens=5, cached_tokens=2, fingerprint="sha256:0123456789abcdef")
FINISHED = pb.Finished(usage=pb.Usage(prompt_tokens=5, completion_tokens=4, cached_tokens=2))


def ended(choice: int = 0, reason: pb.FinishReason = pb.FINISH_REASON_STOP) -> pb.ChoiceFinished:
    return pb.ChoiceFinished(choice=choice, reason=reason)


def logprob(text: bytes, value: float = -0.5) -> pb.TokenLogprob:
    return pb.TokenLogprob(token=text, logprob=value, top=[pb.TopLogprob(token=text, logprob=value)])


def events(raw: bytes) -> list[Any]:
    found: list[Any] = []
    for frame in raw.decode().split("\n\n")[:-1]:
        assert frame.startswith("data: ")
        assert "\n" not in frame
        found.append(frame[6:] if frame == "data: [DONE]" else json.loads(frame[6:]))
    return found


def render(*given_: Event, usage: bool = False, choices: int = 1, logprobs: bool = False) -> list[Any]:
    buffers = [ChatLogprobs() for _ in range(choices)] if logprobs else None
    chunks = ChatEvents("id-1", 123, 'm"x', choices, include_usage=usage, logprobs=buffers, **PLAIN)
    return events(chunks.render(given_))


@given(st.lists(st.text(min_size=1, max_size=20), max_size=10))
def test_any_text_survives_and_makes_one_event_per_delta(texts: list[str]) -> None:
    found = render(STARTED, *(pb.Delta(text=text, token_ids=[1]) for text in texts), ended(), FINISHED)
    assert [chunk["choices"][0]["delta"]["content"] for chunk in found[1:-2]] == texts
    assert all(chunk["model"] == 'm"x' and chunk["created"] == 123 for chunk in found[:-1])


def test_a_delta_without_text_makes_no_event() -> None:
    assert len(render(STARTED, pb.Delta(token_ids=[1]))) == 1


def test_every_choice_has_a_role_first_and_a_reason_last() -> None:
    found = render(
        STARTED,
        pb.Delta(choice=1, text="b", token_ids=[1]),
        ended(1),
        ended(0, pb.FINISH_REASON_LENGTH),
        FINISHED,
        choices=2,
    )
    seen = [(c["choices"][0]["index"], c["choices"][0]["delta"], c["choices"][0]["finish_reason"]) for c in found[:-1]]
    role = {"role": "assistant", "content": "", "refusal": None}
    assert seen == [
        (0, role, None),
        (1, role, None),
        (1, {"content": "b"}, None),
        (1, {}, "stop"),
        (0, {}, "length"),
    ]


def test_usage_is_null_until_its_own_event() -> None:
    found = render(STARTED, ended(), FINISHED, usage=True)
    assert [chunk["usage"] for chunk in found[:2]] == [None, None]
    assert found[2]["choices"] == []
    assert found[2]["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 4,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert found[3] == "[DONE]"
    assert "usage" not in render(STARTED)[0]


def test_log_probabilities_of_held_back_text_come_with_the_text() -> None:
    found = render(
        STARTED,
        pb.Delta(token_ids=[1], logprobs=[logprob(b"\xc3")]),
        pb.Delta(token_ids=[2], text="é", logprobs=[logprob(b"\xa9", float("-inf"))]),
        pb.Delta(token_ids=[3], logprobs=[logprob(b"x")]),
        ended(),
        logprobs=True,
    )
    content = found[1]["choices"][0]["logprobs"]["content"]
    assert [entry["bytes"] for entry in content] == [[0xC3], [0xA9]]
    assert [entry["logprob"] for entry in content] == [-0.5, -9999.0]
    assert content[0]["top_logprobs"] == [{"token": "\ufffd", "logprob": -0.5, "bytes": [0xC3]}]
    assert [entry["token"] for entry in found[2]["choices"][0]["logprobs"]["content"]] == ["x"]


def test_in_one_piece_it_is_the_same_answer() -> None:
    collector = ChatCollector("id-1", 123, "m", 2, logprobs=[ChatLogprobs(), ChatLogprobs()], **PLAIN)
    collector.add([STARTED, pb.Delta(choice=1, text="b", token_ids=[1], logprobs=[logprob(b"b")]), ended(1)])
    collector.add([pb.Delta(choice=0, text="a", token_ids=[1]), ended(0, pb.FINISH_REASON_LENGTH), FINISHED])
    answer = collector.answer()
    assert [(choice.message.content, choice.finish_reason) for choice in answer.choices] == [
        ("a", "length"),
        ("b", "stop"),
    ]
    assert answer.system_fingerprint == "fp_0123456789ab"
    assert answer.usage.total_tokens == 9
    logprobs = answer.choices[1].logprobs
    assert logprobs is not None
    assert logprobs.content[0].token == "b"
