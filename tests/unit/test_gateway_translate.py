"""From OpenAI's request to the worker's."""

from __future__ import annotations

import json
from typing import Any

from gateway.schema import parse_chat
from gateway.translate import to_generate
from mesh.v1 import inference_pb2 as pb


def translate(**fields: Any) -> pb.GenerateRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return to_generate(parse_chat(json.dumps(body).encode()), "r", seed=11)


def test_what_is_unset_stays_unset_except_the_seed() -> None:
    wire = translate()
    assert [field.name for field, _ in wire.sampling.ListFields()] == ["seed"]
    assert wire.sampling.seed == 11
    assert not wire.HasField("output")
    assert (wire.model, wire.request_id) == ("m", "r")


def test_a_drawn_seed_is_a_new_one_each_time() -> None:
    request = parse_chat(b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}')
    assert len({to_generate(request, "r").sampling.seed for _ in range(20)}) == 20


def test_every_option_arrives() -> None:
    sampling = translate(
        temperature=0.5,
        top_p=0.25,
        top_k=3,
        min_p=0.125,
        typical_p=0.75,
        n=2,
        stop=["a", "b"],
        max_tokens=9,
        min_tokens=1,
        seed=-5,
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        repetition_penalty=1.5,
        logit_bias={"7": -2, "0": 1.5},
        ignore_eos=True,
        stop_token_ids=[4, 5],
    ).sampling
    assert sampling == pb.SamplingOptions(
        temperature=0.5,
        top_p=0.25,
        top_k=3,
        min_p=0.125,
        typical_p=0.75,
        n=2,
        stop=["a", "b"],
        max_tokens=9,
        min_tokens=1,
        seed=-5,
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        repetition_penalty=1.5,
        logit_bias={7: -2, 0: 1.5},
        ignore_eos=True,
        stop_token_ids=[4, 5],
    )


def test_a_zero_is_not_unset() -> None:
    sampling = translate(temperature=0, presence_penalty=0, seed=0).sampling
    assert sampling.HasField("temperature")
    assert sampling.HasField("presence_penalty")
    assert sampling.HasField("seed")
    assert sampling.seed == 0


def test_the_newer_name_of_the_limit_wins() -> None:
    assert translate(max_tokens=5, max_completion_tokens=7).sampling.max_tokens == 7


def test_a_nucleus_of_nothing_is_greedy() -> None:
    sampling = translate(top_p=0, temperature=1.5).sampling
    assert sampling.temperature == 0
    assert not sampling.HasField("top_p")


def test_a_single_stop_string() -> None:
    assert list(translate(stop="end").sampling.stop) == ["end"]


def test_log_probabilities() -> None:
    assert translate(logprobs=True).output.logprobs == 0
    assert translate(logprobs=True).output.HasField("logprobs")
    assert translate(logprobs=True, top_logprobs=3).output.logprobs == 3
    assert not translate(logprobs=False).HasField("output")


def test_messages_of_every_kind() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = translate(
        messages=[
            {"role": "developer", "content": "be kind"},
            {"role": "user", "name": "ada", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm"},
            {"role": "tool", "content": "42", "tool_call_id": "c1"},
        ]
    ).chat.messages
    assert [message.role for message in messages] == ["developer", "user", "assistant", "tool"]
    assert [[part.text for part in message.parts] for message in messages] == [["be kind"], ["a", "b"], [], ["42"]]
    assert messages[1].name == "ada"
    assert messages[2].reasoning == "hm"
    assert messages[2].tool_calls[0] == pb.ToolCall(id="c1", name="f", arguments_json="{}")
    assert messages[3].tool_call_id == "c1"


def test_an_empty_text_is_not_a_null_content() -> None:
    [message] = translate(messages=[{"role": "user", "content": ""}]).chat.messages
    assert [part.WhichOneof("part") for part in message.parts] == ["text"]
