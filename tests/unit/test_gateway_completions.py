"""Text completions: the body, the workers' requests, the bytes of the answer."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.openai.collect import CompletionCollector
from gateway.openai.completion_schema import CompletionRequest, parse_completion
from gateway.openai.logprobs import CompletionLogprobs, prompt_logprobs, with_top
from gateway.openai.sse import CompletionEvents
from gateway.openai.translate import to_generates
from mesh.answer import Event
from mesh.errors import ErrorKind, MeshError
from mesh.v1 import inference_pb2 as pb

FIELDS = sorted(CompletionRequest.__struct_fields__)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
STARTED = pb.Started(prompt_tokens=5, fingerprint="sha256:0123456789abcdef")
FINISHED = pb.Finished(usage=pb.Usage(prompt_tokens=5, completion_tokens=3))


def parse(**fields: Any) -> CompletionRequest:
    return parse_completion(json.dumps({"model": "m", "prompt": "hi", **fields}).encode())


@given(st.dictionaries(st.sampled_from(FIELDS), values, max_size=4))
def test_any_json_is_parsed_or_refused_with_a_field(fields: dict[str, Any]) -> None:
    error = None
    try:
        to_generates(parse(**fields), "r")
    except MeshError as caught:
        error = caught
    if error is not None:
        assert error.kind in (ErrorKind.INVALID_REQUEST, ErrorKind.UNSUPPORTED)
        assert error.param


REFUSED: list[tuple[dict[str, Any], str, ErrorKind]] = [
    ({"prompt": []}, "prompt", ErrorKind.INVALID_REQUEST),
    ({"prompt": [[]]}, "prompt", ErrorKind.INVALID_REQUEST),
    ({"prompt": [1, "a"]}, "prompt", ErrorKind.INVALID_REQUEST),
    ({"prompt": ["a", [1]]}, "prompt", ErrorKind.INVALID_REQUEST),
    ({"prompt": [-1]}, "prompt", ErrorKind.INVALID_REQUEST),
    ({"prompt": [[1], [2**32]]}, "prompt", ErrorKind.INVALID_REQUEST),
    ({"prompt": None}, "prompt", ErrorKind.INVALID_REQUEST),
    ({"prompt": ["a"] * 65, "n": 2}, "prompt", ErrorKind.INVALID_REQUEST),
    ({"max_tokens": 0}, "max_tokens", ErrorKind.INVALID_REQUEST),
    ({"logprobs": 6}, "logprobs", ErrorKind.INVALID_REQUEST),
    ({"logprobs": True}, "logprobs", ErrorKind.INVALID_REQUEST),
    ({"temperature": 3}, "temperature", ErrorKind.INVALID_REQUEST),
    ({"stream_options": {}}, "stream_options", ErrorKind.INVALID_REQUEST),
    ({"messages": []}, "messages", ErrorKind.INVALID_REQUEST),
    ({"suffix": "x"}, "suffix", ErrorKind.UNSUPPORTED),
    ({"best_of": 2, "n": 3}, "best_of", ErrorKind.INVALID_REQUEST),
    ({"best_of": 129}, "best_of", ErrorKind.INVALID_REQUEST),
    ({"best_of": 2, "stream": True}, "best_of", ErrorKind.INVALID_REQUEST),
    ({"prompt": ["a"] * 50, "best_of": 3}, "prompt", ErrorKind.INVALID_REQUEST),
    ({"prompt_logprobs": 21}, "prompt_logprobs", ErrorKind.INVALID_REQUEST),
    ({"prompt_logprobs": 0, "stream": True}, "prompt_logprobs", ErrorKind.INVALID_REQUEST),
]


@pytest.mark.parametrize(("fields", "param", "kind"), REFUSED)
def test_refusals_name_the_field(fields: dict[str, Any], param: str, kind: ErrorKind) -> None:
    with pytest.raises(MeshError) as caught:
        parse(**fields)
    assert (caught.value.param, caught.value.kind) == (param, kind)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", ["a"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_the_four_forms_of_a_prompt(prompt: Any, expected: list[Any]) -> None:
    wires = to_generates(parse(prompt=prompt), "r")
    assert [wire.text if wire.HasField("text") else list(wire.tokens.ids) for wire in wires] == expected
    assert [wire.request_id for wire in wires] == (["r"] if len(wires) == 1 else ["r-0", "r-1"])


def test_options_arrive_and_the_length_has_a_default() -> None:
    [wire] = to_generates(parse(best_of=1, echo=True), "r", draw=lambda _: 11)
    assert wire.sampling == pb.SamplingOptions(max_tokens=16, seed=11, best_of=1, drawn_seed=True)
    assert wire.output == pb.OutputOptions(echo=True)
    first, second = to_generates(parse(prompt=["a", "b"], logprobs=0, max_tokens=3, n=2, seed=5, top_k=4), "r")
    assert first.sampling == second.sampling == pb.SamplingOptions(max_tokens=3, n=2, seed=5, top_k=4)
    assert first.output == pb.OutputOptions(logprobs=0)
    drawn = to_generates(parse(prompt=["a", "b"]), "r")
    assert drawn[0].sampling.seed != drawn[1].sampling.seed


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"prompt_logprobs": 2}, pb.OutputOptions(prompt_logprobs=2)),
        ({"echo": True, "logprobs": 0}, pb.OutputOptions(echo=True, logprobs=0, prompt_logprobs=0)),
        (
            {"echo": True, "logprobs": 3, "prompt_logprobs": 1},
            pb.OutputOptions(echo=True, logprobs=3, prompt_logprobs=3),
        ),
        (
            {"echo": True, "logprobs": 1, "prompt_logprobs": 9},
            pb.OutputOptions(echo=True, logprobs=1, prompt_logprobs=9),
        ),
    ],
)
def test_what_workers_report_of_the_prompt(fields: dict[str, Any], expected: pb.OutputOptions) -> None:
    [wire] = to_generates(parse(**fields), "r")
    assert wire.output == expected


def logprob(token: bytes, value: float, **top: float) -> pb.TokenLogprob:
    likely = [pb.TopLogprob(token=name.encode(), logprob=each) for name, each in top.items()]
    return pb.TokenLogprob(token=token, logprob=value, top=likely)


EVENTS: list[Event] = [
    STARTED,
    pb.Delta(text="ab", token_ids=[1], logprobs=[logprob(b"ab", -0.5, ab=-0.5, x=-1)]),
    pb.Delta(token_ids=[2], logprobs=[logprob(b"\xc3", -1)]),
    pb.Delta(text="é", token_ids=[3], logprobs=[logprob(b"\xa9", float("-inf"), y=-0.25)]),
    pb.Delta(token_ids=[4], logprobs=[logprob(b"z", -2)]),
    pb.ChoiceFinished(reason=pb.FINISH_REASON_STOP),
    FINISHED,
]
LOGPROBS = {
    "tokens": ["ab", "bytes:\\xc3", "bytes:\\xa9", "z"],
    "token_logprobs": [-0.5, -1, -9999, -2],
    "top_logprobs": [{"ab": -0.5, "x": -1}, {"bytes:\\xc3": -1}, {"y": -0.25, "bytes:\\xa9": -9999}, {"z": -2}],
    "text_offset": [0, 2, 2, 3],
}


def test_in_one_piece() -> None:
    collector = CompletionCollector("cmpl-1", 123, "m", 1, logprobs=[CompletionLogprobs()])
    collector.add(EVENTS)
    found = json.loads(msgspec.json.encode(collector.answer()))
    assert list(found) == ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"]
    assert found["object"] == "text_completion"
    assert found["choices"] == [{"text": "abé", "index": 0, "logprobs": LOGPROBS, "finish_reason": "stop"}]


@pytest.mark.parametrize("logprobs", [True, False])
def test_a_stream_is_the_same_in_pieces(logprobs: bool) -> None:
    buffers = [CompletionLogprobs()] if logprobs else None
    chunks = CompletionEvents("cmpl-1", 123, 'm"x', 1, include_usage=True, logprobs=buffers)
    frames = chunks.render(EVENTS).decode().split("\n\n")[:-1]
    *found, usage, done = [frame.removeprefix("data: ") for frame in frames]
    choices = [json.loads(frame)["choices"][0] for frame in found]
    assert [(choice["text"], choice["finish_reason"]) for choice in choices] == [
        ("ab", None),
        ("é", None),
        ("", "stop"),
    ]
    assert json.loads(found[0])["object"] == "text_completion"
    assert (json.loads(usage)["choices"], json.loads(usage)["usage"]["total_tokens"], done) == ([], 8, "[DONE]")
    if logprobs:
        joined = {key: [each for choice in choices for each in choice["logprobs"][key]] for key in LOGPROBS}
        assert joined == LOGPROBS
    else:
        assert all(choice["logprobs"] is None for choice in choices)


PROMPT = [
    pb.TokenLogprob(token_id=5, token=b"<s>"),
    pb.TokenLogprob(
        token_id=6,
        token=b"a",
        logprob=-3,
        top=[pb.TopLogprob(token_id=9, token=b"x", logprob=-0.5), pb.TopLogprob(token_id=6, token=b"a", logprob=-3)],
    ),
]


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        (2, {"6": (-3, 2, "a"), "9": (-0.5, 1, "x")}),
        (1, {"6": (-3, None, "a"), "9": (-0.5, 1, "x")}),
        (0, {"6": (-3, None, "a")}),
    ],
)
def test_log_probabilities_of_the_prompt(top: int, expected: dict[str, Any]) -> None:
    first, second = prompt_logprobs(with_top(PROMPT, top))
    assert first is None
    assert second is not None
    found = {token: (each.logprob, each.rank, each.decoded_token) for token, each in second.items()}
    assert found == expected


def test_an_echoed_prompt_goes_before() -> None:
    buffer = CompletionLogprobs(lambda: with_top(PROMPT, 1))
    assert not buffer
    buffer.add([logprob(b"b", -1)])
    buffer.add([logprob(b"c", -2)])
    found = buffer.take()
    assert found.tokens == ["<s>", "a", "b", "c"]
    assert found.token_logprobs == [None, -3, -1, -2]
    assert found.top_logprobs == [None, {"x": -0.5, "a": -3}, {"b": -1}, {"c": -2}]
    assert found.text_offset == [0, 3, 4, 5]
