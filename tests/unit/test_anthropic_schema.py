"""What a body of the Messages API may hold, and how it is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.anthropic.schema import CountRequest, MessagesRequest, parse_count, parse_messages
from mesh.errors import ErrorKind, MeshError
from tests.unit.test_gateway_schema import values

USER = {"role": "user", "content": "hi"}
FUNCTION: dict[str, Any] = {"name": "f", "input_schema": {}}
CALLING: dict[str, Any] = {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]}
FIELDS = sorted(MessagesRequest.__struct_fields__)
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"temperature": 1.1}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"top_k": -1}, "top_k"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "messages[0].content[0].type"),
    (
        {"messages": [{"role": "user", "content": [{"type": "thinking", "thinking": "x"}]}]},
        "messages[0].content[0].type",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": ""}]}]},
        "messages[0].content[0].tool_use_id",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "citations": [{}]}]}]},
        "messages[0].content[0].citations",
    ),
    ({"messages": [USER, {"role": "assistant", "content": ""}]}, "messages"),
    ({"messages": [USER, CALLING]}, "messages"),
    ({"stop_sequences": [""]}, "stop_sequences"),
    ({"stop_sequences": ["x"] * 65}, "stop_sequences"),
    ({"n": 2}, "n"),
    ({"container": "c"}, "container"),
    ({"mcp_servers": [{}]}, "mcp_servers"),
    ({"tools": [{"name": "web", "type": "web_search_20250305"}]}, "tools[0].type"),
    ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
    ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name"),
    ({"tools": [FUNCTION, FUNCTION]}, "tools[1].name"),
    ({"tools": [{**FUNCTION, "name": f"f{index}"} for index in range(129)]}, "tools"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tools": [FUNCTION], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name"),
    ({"tools": [FUNCTION], "tool_choice": {"type": "any", "name": "f"}}, "tool_choice.name"),
    ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": 12}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "adaptive", "budget_tokens": 1024}}, "thinking.budget_tokens"),
    ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management.edits[0].type"),
    ({"service_tier": "priority"}, "service_tier"),
    ({"thread": {"type": "create"}}, "thread"),
]


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "max_tokens": 100, "messages": [USER], **fields}).encode()


def attempt(data: bytes) -> MeshError | None:
    try:
        parse_messages(data)
    except MeshError as error:
        return error
    return None


@pytest.mark.parametrize(("fields", "named"), WRONG)
def test_what_is_wrong_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(MeshError) as caught:
        parse_messages(body(**fields))
    assert caught.value.kind.value.http_status == 400
    assert caught.value.param == named
    assert f"'{named}'" in caught.value.message


@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), values, max_size=4))
def test_any_json_is_parsed_or_refused_with_a_field(fields: dict[str, Any]) -> None:
    error = attempt(body(**fields))
    if error is not None:
        assert error.kind in (ErrorKind.INVALID_REQUEST, ErrorKind.UNSUPPORTED)
        assert error.param is not None


def test_null_is_the_same_as_absent() -> None:
    optional = {name: None for name in FIELDS if name not in ("model", "messages", "max_tokens")}
    assert parse_messages(body(**optional)) == parse_messages(body())


def test_what_makes_a_prompt_can_be_counted() -> None:
    with pytest.raises(MeshError) as caught:
        parse_count(body())
    assert caught.value.param == "max_tokens"
    assert isinstance(parse_count(json.dumps({"model": "m", "messages": [USER]}).encode()), CountRequest)
