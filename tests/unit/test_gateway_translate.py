"""From OpenAI's request to the worker's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.openai.chat_schema import parse_chat
from gateway.openai.translate import to_generate
from mesh.errors import ErrorKind, MeshError
from mesh.v1 import inference_pb2 as pb


def translate(**fields: Any) -> pb.GenerateRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return to_generate(parse_chat(json.dumps(body).encode()), "r", draw=lambda _: 11)


def test_what_is_unset_stays_unset_except_the_seed() -> None:
    wire = translate()
    assert [field.name for field, _ in wire.sampling.ListFields()] == ["seed", "drawn_seed"]
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
    assert not sampling.drawn_seed
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


SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"enum": ["é", 1, 1.5, None]}}}


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"response_format": {"type": "json_object"}}, pb.Constraint(json_object=True)),
        ({"structured_outputs": {"json_object": True}}, pb.Constraint(json_object=True)),
        ({"structured_outputs": {"json": '{"type": "null"}'}}, pb.Constraint(json_schema='{"type": "null"}')),
        ({"structured_outputs": {"regex": "a/b+"}}, pb.Constraint(regex="a/b+")),
        ({"structured_outputs": {"grammar": 'start: "é"'}}, pb.Constraint(grammar='start: "é"')),
        (
            {
                "structured_outputs": {"choice": ["yes", "no"], "json_object": False},
                "response_format": {"type": "text"},
            },
            pb.Constraint(choice=pb.Choice(texts=["yes", "no"])),
        ),
    ],
)
def test_a_grammar_arrives(fields: dict[str, Any], constraint: pb.Constraint) -> None:
    assert translate(**fields).constraint == constraint


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}},
        {"structured_outputs": {"json": SCHEMA}},
    ],
)
def test_a_schema_keeps_the_order_of_its_properties(fields: dict[str, Any]) -> None:
    text = translate(**fields).constraint.json_schema
    assert json.dumps(json.loads(text)) == json.dumps(SCHEMA)


@pytest.mark.parametrize("fields", [{}, {"response_format": {"type": "text"}}, {"structured_outputs": None}])
def test_plain_text_has_no_grammar(fields: dict[str, Any]) -> None:
    assert not translate(**fields).HasField("constraint")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": "json_object"}, "response_format"),
        ({"response_format": {"type": "text", "schema": {}}}, "response_format.schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_object", "json_schema": {"name": "x", "schema": {}}}},
            "response_format.json_schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": []}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
            "response_format.json_schema.name",
        ),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"choice": ["a", ""]}}, "structured_outputs.choice"),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "structured_outputs",
        ),
    ],
)
def test_a_grammar_of_the_wrong_shape_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(MeshError) as caught:
        translate(**fields)
    assert (caught.value.kind, caught.value.param) == (ErrorKind.INVALID_REQUEST, param)
    assert f"'{param}'" in caught.value.message
