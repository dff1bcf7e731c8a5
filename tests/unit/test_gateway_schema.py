"""What a request body may hold, and how it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.openai.chat_schema import WITHOUT_EFFECT, ChatRequest, parse_chat
from gateway.openai.translate import to_generate
from gateway.openapi.fields_page import page
from mesh.errors import ErrorKind, MeshError
from mesh.v1 import inference_pb2 as pb

MINIMAL: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f"}}
FIELDS = sorted(ChatRequest.__struct_fields__)

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def parse(**fields: Any) -> ChatRequest:
    return parse_chat(json.dumps({**MINIMAL, **fields}).encode())


def attempt(**fields: Any) -> MeshError | None:
    try:
        parse(**fields)
    except MeshError as error:
        return error
    return None


def refusal(**fields: Any) -> MeshError:
    with pytest.raises(MeshError) as caught:
        parse(**fields)
    assert caught.value.kind.value.http_status == 400
    return caught.value


@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), values, max_size=4))
@example({"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]})
@example({"logit_bias": {"²": 1}})
@example({"temperature": float("inf")})
def test_any_json_is_parsed_or_refused_with_a_field(fields: dict[str, Any]) -> None:
    error = attempt(**fields)
    if error is not None:
        assert error.kind in (ErrorKind.INVALID_REQUEST, ErrorKind.UNSUPPORTED)
        assert error.param is not None
        assert len(error.message) < 1000 + sum(len(str(key)) for key in fields)


@given(st.binary(max_size=200))
@example(b"")
@example(b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}')
@example(b'{"model": "m", "messages": [{"role": "user", "content": "\xed\xa0\x80"}]}')
@example(b"[" * 100_000)
@example(b'{"metadata":' * 100_000)
def test_any_bytes_are_refused_in_order(body: bytes) -> None:
    with pytest.raises(MeshError) as caught:
        parse_chat(body)
    assert caught.value.kind.value.http_status == 400


@pytest.mark.parametrize("field", [name for name in FIELDS if name not in ("model", "messages")])
def test_null_equals_absent(field: str) -> None:
    assert parse(**{field: None}) == parse()


@pytest.mark.parametrize(
    ("field", "value", "low", "high"),
    [
        ("temperature", 2.5, "0", "2"),
        ("temperature", -0.1, "0", "2"),
        ("top_p", 1.01, "0", "1"),
        ("n", 0, "1", "128"),
        ("n", 129, "1", "128"),
        ("max_tokens", 0, "1", "4294967295"),
        ("max_completion_tokens", -1, "1", "4294967295"),
        ("seed", 2**63, str(-(2**63)), str(2**63 - 1)),
        ("frequency_penalty", -2.1, "-2", "2"),
        ("presence_penalty", 2.1, "-2", "2"),
        ("top_logprobs", 21, "0", "20"),
        ("top_k", -2, "-1", "2147483647"),
        ("min_p", 1.5, "0", "1"),
        ("min_tokens", -1, "0", "4294967295"),
        ("priority", -101, "-100", "100"),
        ("repetition_penalty", 1e-40, "0.01", "10"),
        ("typical_p", 1.1, "0", "1"),
        ("logit_bias", {"3": 101}, "-100", "100"),
        ("stop_token_ids", [2**32], "0", "4294967295"),
    ],
)
def test_a_value_out_of_range_is_refused_with_field_limits_and_value(
    field: str, value: object, low: str, high: str
) -> None:
    error = refusal(**{field: value})
    shown = value if not isinstance(value, dict | list) else 101 if isinstance(value, dict) else 2**32
    assert error.param == field
    for part in (f"'{field}'", low, high, str(shown)):
        assert part in error.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": "1"}, "n"),
        ({"stream": 1}, "stream"),
        ({"stop": [1]}, "stop[0]"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ["a"] * 10_000}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": "x" * 1025}, "stop"),
        ({"messages": list[Any]()}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "hi"}] * 10_001}, "messages"),
        ({"messages": [{"role": "user", "content": list[Any]()}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "1"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": "hi", "colour": 1}]}, "messages[0].colour"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"speed": 1}}, "stream_options.speed"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"metadata": {str(index): "" for index in range(17)}}, "metadata"),
        ({"metadata": {"a": "\0"}}, "metadata"),
        ({"temprature": 1}, "temprature"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": list[Any]()}, "tools"),
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": list[Any]()}}]},
            "tools[0].function.parameters",
        ),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        ({"tools": [TOOL], "tool_choice": "required", "response_format": {"type": "json_object"}}, "tool_choice"),
        ({"reasoning_effort": "much"}, "reasoning_effort"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"functions": []}, "functions"),
        ({"functions": [{"name": "f"}] * 2}, "functions[1].name"),
        ({"functions": [{"name": "f"}], "tools": [TOOL]}, "functions"),
        ({"functions": [{"name": "f"}], "function_call": "required"}, "function_call"),
        ({"functions": [{"name": "f"}], "function_call": {"name": "g"}}, "function_call"),
        ({"function_call": "auto"}, "function_call"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages[0].name"),
        ({"messages": [{"role": "user", "content": "", "function_call": {"name": "f"}}]}, "messages[0].function_call"),
    ],
)
def test_a_mistake_is_refused_with_its_field(fields: dict[str, Any], param: str) -> None:
    error = refusal(**fields)
    assert error.kind is ErrorKind.INVALID_REQUEST
    assert error.param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"verbosity": "high"},
        {"audio": {}},
        {"service_tier": "flex"},
        {"modalities": ["audio"]},
        {"web_search_options": {}},
    ],
)
def test_what_is_not_served_is_refused_by_name(fields: dict[str, Any]) -> None:
    error = refusal(**fields)
    assert error.kind is ErrorKind.UNSUPPORTED
    assert error.param == next(iter(fields))
    assert f"'{error.param}'" in error.message


@pytest.mark.parametrize(
    ("role", "part", "param"),
    [
        ("user", {"type": "input_audio", "input_audio": {}}, "messages[0].content[0].type"),
        ("assistant", {"type": "image_url", "image_url": "data:"}, "messages[0].content[0].type"),
        ("user", {"type": "image_url"}, "messages[0].content[0].image_url"),
        ("user", {"type": "image_url", "image_url": {"url": "data:", "detail": "fine"}}, "image_url.detail"),
        ("user", {"type": "image_url", "image_url": {"detail": "low"}}, "image_url"),
    ],
)
def test_parts_are_refused_by_name(role: str, part: dict[str, Any], param: str) -> None:
    error = refusal(messages=[{"role": role, "content": [part]}])
    assert error.kind in (ErrorKind.UNSUPPORTED, ErrorKind.INVALID_REQUEST)
    assert param in error.message


def test_a_missing_field_is_named() -> None:
    with pytest.raises(MeshError, match="'model' is required") as caught:
        parse_chat(b'{"messages": []}')
    assert caught.value.param == "model"


def test_harmless_fields_are_accepted() -> None:
    parse(
        user="u",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        safety_identifier="s",
        prompt_cache_key="k",
        parallel_tool_calls=True,
        modalities=["text"],
        response_format={"type": "text"},
    )


@pytest.mark.parametrize(
    ("kind", "value"), [("json", {"type": "object"}), ("regex", "a+"), ("choice", ["a", "b"]), ("grammar", "start: A")]
)
def test_constraints_by_their_earlier_names_are_kept_to(kind: str, value: Any) -> None:
    old, new = parse(**{f"guided_{kind}": value}), parse(structured_outputs={kind: value})
    assert old.is_constrained
    assert to_generate(old, "r", draw=lambda _: 1) == to_generate(new, "r", draw=lambda _: 1)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_regex": "a", "guided_json": "{}"}, "guided_json"),
        ({"guided_regex": "a", "structured_outputs": {"regex": "a"}}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": ["a", ""]}, "guided_choice"),
        ({"guided_regex": ""}, "guided_regex"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
    ],
)
def test_wrong_constraints_by_their_earlier_names(fields: dict[str, Any], param: str) -> None:
    error = attempt(**fields)
    assert error is not None
    assert error.param == param


def test_template_variables_are_few() -> None:
    assert attempt(chat_template_kwargs={"x": "a" * 65_000}) is None
    error = attempt(chat_template_kwargs={"x": [{}] * 40_000})
    assert error is not None
    assert (error.param, "at most 65536 bytes as JSON, not" in error.message) == ("chat_template_kwargs", True)


def _nested(levels: int) -> Any:
    return [_nested(levels - 1)] if levels else "x"


@pytest.mark.parametrize("levels", [17, 46, 60, 300])
def test_template_variables_that_no_worker_could_read_are_refused(levels: int) -> None:
    """The session with the worker would break, and with it all answers on it."""
    assert "nested at most 16 levels" in refusal(chat_template_kwargs={"x": _nested(levels - 1)}).message
    wire = pb.StreamStart(request=to_generate(parse(chat_template_kwargs={"x": _nested(15)}), ""))
    assert pb.SessionRequest.FromString(pb.SessionRequest(start=wire).SerializeToString()).start == wire


@pytest.mark.parametrize("number", [2**53 + 1, -(2**53) - 1, 10**400])
def test_numbers_of_template_variables_are_kept_or_refused(number: int) -> None:
    assert "whole numbers between" in refusal(chat_template_kwargs={"x": [number]}).message
    wire = to_generate(parse(chat_template_kwargs={"x": 2**53, "y": 1.5e300}), "")
    assert (wire.chat.template_arguments["x"], wire.chat.template_arguments["y"]) == (2**53, 1.5e300)


def test_nul_bytes_are_text() -> None:
    assert parse(messages=[{"role": "user", "content": "a\0b"}]).messages[0].content == "a\0b"


def test_the_page_of_the_fields_is_current() -> None:
    docs = Path(__file__).parents[2] / "docs/api.md"
    assert docs.read_text() == page() + "\n", "run make docs"


@pytest.mark.parametrize("field", WITHOUT_EFFECT)
def test_what_is_without_effect_is_a_field(field: str) -> None:
    assert field in FIELDS


def test_a_whole_number_may_be_written_with_a_fraction_of_nothing() -> None:
    request = parse(max_tokens=16.0, n=2.0, seed=-3e2, stop_token_ids=[1, 2.0], temperature=1)
    assert (request.max_tokens, request.n, request.seed, request.stop_token_ids) == (16, 2, -300, [1, 2])
    assert all(type(number) is int for number in (request.max_tokens, request.n, request.seed))
    assert to_generate(request, "r").sampling.max_tokens == 16


def test_a_schema_keeps_its_numbers_where_another_field_is_a_whole_one() -> None:
    schema = {"type": "number", "multipleOf": 1.0}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    request = parse(max_tokens=16.0, tools=[tool])
    assert request.tools is not None
    assert '"multipleOf":1.0' in to_generate(request, "r").chat.tools[0].parameters_json


@pytest.mark.parametrize("value", [1.5, -0.5, 1e300, "16", True])
def test_other_numbers_are_no_whole_ones(value: Any) -> None:
    error = refusal(max_tokens=value, n=2.0)
    assert error.param == "max_tokens"
    assert "expected int" in error.message
