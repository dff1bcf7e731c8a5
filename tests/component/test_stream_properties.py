"""Properties of every request, on a whole mesh in this process: a valid one gets the same answer streamed and in one
piece, and what is wrong with an invalid one is named."""

from __future__ import annotations

import asyncio
import json
import typing
from collections.abc import AsyncGenerator
from typing import Any, cast

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.anthropic.schema import MessagesRequest
from gateway.openai.chat_schema import CHAT_RANGES, ChatRequest
from gateway.openai.completion_schema import COMPLETION_RANGES, CompletionRequest
from gateway.openai.responses.schema import ResponseRequest
from gateway.openai.schema import RANGES
from mesh.dialects import Dialect
from mesh.engine.scripted import ScriptedOptions
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.test_gateway_messages import gathered as message_of
from tests.component.whole_mesh import whole

FUZZ = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
Body = dict[str, Any]
CHAT, COMPLETIONS, RESPONSES, MESSAGES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
)

# What the model is to say: it says again what it was told last.
_CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "the sea", "days": 3}}\n</tool_call>'
_JSON = '{"at": "sea", "days": 3}'
_pieces = st.sampled_from(
    ["The sea", " is", " blue", "déjà", "日本", "🙂", "\n", '"', "<think>", "</think>", "<tool_call>", " word"]
)
_texts = st.one_of(
    st.lists(_pieces, min_size=1, max_size=8).map("".join),
    st.sampled_from(
        [_CALL, _CALL * 2, f"Now.{_CALL}", f"<think>\nhm\n</think>\n\n{_CALL}", "<think>hm</think>so", _JSON]
    ),
)
_SCHEMA = {
    "type": "object",
    "properties": {"at": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["at", "days"],
    "additionalProperties": False,
}
_FUNCTION = {"name": "look", "parameters": _SCHEMA}
_TOOL = {"type": "function", "function": _FUNCTION}
_NAMED = {"type": "function", "function": {"name": "look"}}

# Without one, each request is given its own.
_seed: dict[str, st.SearchStrategy[Any]] = {"seed": st.integers(-(2**63), 2**63 - 1)}
_common: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.sampled_from([0, 0.5, 1, 2]),
    "top_p": st.sampled_from([0.1, 1]),
    "max_tokens": st.sampled_from([1, 2, 5, 12, 60]),
    "n": st.integers(1, 3),
    "stop": st.sampled_from(["blue", ["sea", "日"], [" is", "</think>"], ["nothing of the kind"]]),
    "min_tokens": st.integers(0, 1),
    "presence_penalty": st.sampled_from([-2, 1.5]),
    "include_stop_str_in_output": st.booleans(),
    "user": st.just("u"),
}


def _told(text: str) -> list[Body]:
    return [{"role": "user", "content": text}]


def _bodies(name: str, values: st.SearchStrategy[Any], *parts: st.SearchStrategy[Body]) -> st.SearchStrategy[Body]:
    """Bodies with the field that every request has, and the fields of the parts."""
    given: st.SearchStrategy[Body] = values.map(lambda value: {"model": "m", name: value})
    return st.tuples(given, *parts).map(lambda drawn: {key: value for part in drawn for key, value in part.items()})


def _of(kinds: list[Body]) -> st.SearchStrategy[Body]:
    return st.sampled_from(kinds)


_tools: dict[str, st.SearchStrategy[Any]] = {"tools": st.just([_TOOL])}
_chat_kinds: st.SearchStrategy[Body] = st.one_of(
    _of([{}]),
    st.fixed_dictionaries(
        _tools,
        optional={
            "tool_choice": st.sampled_from(["auto", "none", "required", _NAMED]),
            "parallel_tool_calls": st.booleans(),
        },
    ),
    _of(
        [
            {"response_format": {"type": "json_object"}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "s", "schema": _SCHEMA, "strict": True},
                }
            },
            {"structured_outputs": {"choice": ["yes", "no"]}},
            {"structured_outputs": {"regex": "[a-z]{2,5}[0-9]"}},
        ]
    ),
)
_shown: dict[str, st.SearchStrategy[Any]] = {"include_reasoning": st.booleans(), "separate_reasoning": st.booleans()}
_chats = _bodies(
    "messages",
    _texts.map(_told),
    _chat_kinds,
    st.fixed_dictionaries(_seed, optional={**_common, **_shown}),
    _of([{}, {"logprobs": True}, {"logprobs": True, "top_logprobs": 2}, {"return_token_ids": True}]),
)
_completions = _bodies(
    "prompt",
    st.one_of(_texts, st.lists(_texts, min_size=1, max_size=3), st.sampled_from([[1, 2, 300], [[65], [66, 67]]])),
    st.one_of(
        st.fixed_dictionaries(_seed, optional={**_common, "echo": st.booleans()}),
        st.fixed_dictionaries(_seed, optional={**_common, "logprobs": st.integers(0, 3)}),
        st.fixed_dictionaries(_seed, optional={**_common, "return_token_ids": st.booleans()}),
    ),
)
_responses = _bodies(
    "input",
    _texts,
    st.just({"store": False}),
    _of(
        [
            {},
            {"tools": [{"type": "function", **_FUNCTION}]},
            {"tools": [{"type": "function", **_FUNCTION}], "tool_choice": "required"},
            {"text": {"format": {"type": "json_schema", "name": "s", "schema": _SCHEMA}}},
        ]
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "max_output_tokens": st.integers(16, 60),
            "temperature": st.sampled_from([0, 1]),
            "reasoning": st.sampled_from([{"summary": "auto"}, {}]),
            "metadata": st.just({"a": "b"}),
        },
    ),
)
_TOOL_OF_MESSAGES = {"name": "look", "input_schema": _SCHEMA}
_messages = _bodies(
    "messages",
    _texts.map(_told),
    _of(
        [
            {},
            {"tools": [_TOOL_OF_MESSAGES]},
            {"tools": [_TOOL_OF_MESSAGES], "tool_choice": {"type": "any"}},
            {"max_tokens": 2000, "thinking": {"type": "enabled", "budget_tokens": 1024}},
        ]
    ),
    st.fixed_dictionaries(
        {"max_tokens": st.integers(1025, 2000)},
        optional={
            "temperature": st.sampled_from([0, 1]),
            # A stream that ends within the input of a call has told half of it; an answer in one piece tells what is
            # whole. Hence no text that a call has.
            "stop_sequences": st.sampled_from([["blue"], ["nothing", "日"]]),
        },
    ),
)


@pytest.fixture
async def gateway() -> AsyncGenerator[GatewayUnderTest]:
    options = ScriptedOptions(name="m", text="echo", context_length=4096, slots=16, dialect=Dialect("hermes", "think"))
    async with whole(options) as (running, _):
        yield running


async def both(gateway: GatewayUnderTest, path: str, body: Body) -> tuple[Body, list[Any]]:
    """The answer in one piece, and the events of the same request streamed."""
    options = {"stream_options": {"include_usage": True}} if path in (CHAT, COMPLETIONS) else {}
    whole, streamed = await asyncio.gather(
        gateway.http.post(path, json=body), gateway.http.post(path, json={**body, "stream": True, **options})
    )
    assert (whole.status_code, streamed.status_code) == (200, 200), (whole.text, streamed.text)
    lines = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line.startswith("data: ")]
    if options:
        assert lines.pop() == "[DONE]"
    return whole.json(), [json.loads(line) for line in lines]


def without_ids(value: Any) -> Any:
    """Any JSON but for what differs between any two answers."""
    if isinstance(value, list):
        return [without_ids(each) for each in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    own = ("id", "call_id", "created", "created_at", "completed_at", "signature")
    return {key: without_ids(each) for key, each in cast("Body", value).items() if key not in own}


def choices_of(events: list[Any], part: str) -> list[Body]:
    """The choices that a client puts together, in the form of those in one piece. `part` is what grows."""
    found: dict[int, Body] = {}
    for event in events:
        for told in event["choices"]:
            choice = found.setdefault(told["index"], {"index": told["index"], part: None, "logprobs": None})
            choice[part] = _grown(choice[part], told[part])
            choice["logprobs"] = _grown(choice["logprobs"], told["logprobs"])
            choice["finish_reason"] = told["finish_reason"]
            for ids in {"token_ids", "prompt_token_ids"} & told.keys():
                choice[ids] = _grown(choice.get(ids), told[ids])
    return [found[index] for index in sorted(found)]


def _grown(value: Any, more: Any) -> Any:
    """What was told so far, and more of it: texts and lists end to end, objects by key, calls by their index."""
    match value, more:
        case (None, _) | (_, None):
            return more if value is None else value
        case dict(), dict():
            found, new = cast("Body", value), cast("Body", more)
            return {key: _grown(found.get(key), new.get(key)) for key in {**found, **new}}
        case list(), [{"index": _}, *_]:
            calls = {call["index"]: call for call in cast("list[Body]", value)}
            for call in cast("list[Body]", more):
                calls[call["index"]] = _grown(calls.get(call["index"]), call)
            return [calls[index] for index in sorted(calls)]
        case _:
            return value if isinstance(value, int) else value + more


def as_in_one_piece(choice: Body) -> Body:
    """A chat's choice of a stream under the names of one in one piece."""
    message = dict(choice.pop("delta"))
    for call in message.get("tool_calls", ()):
        del call["index"]
    return {**choice, "message": message}


@FUZZ
@given(body=_chats)
async def test_chats_say_the_same_streamed_and_in_one_piece(gateway: GatewayUnderTest, body: Body) -> None:
    answer, events = await both(gateway, CHAT, body)
    streamed = [as_in_one_piece(choice) for choice in choices_of(events, "delta")]
    expected = without_ids(answer["choices"])
    for choice, other in zip(without_ids(streamed), expected, strict=True):
        # A message of no text is "" in one form and null in the other where there are calls.
        assert (choice["message"].pop("content") or "") == (other["message"].pop("content") or "")
        assert choice == other
    assert events[-1]["usage"] == answer["usage"]


@FUZZ
@given(body=_completions)
async def test_completions_say_the_same_streamed_and_in_one_piece(gateway: GatewayUnderTest, body: Body) -> None:
    answer, events = await both(gateway, COMPLETIONS, body)
    assert choices_of(events, "text") == answer["choices"]
    assert events[-1]["usage"] == answer["usage"]


@FUZZ
@given(body=_responses)
async def test_responses_say_the_same_streamed_and_in_one_piece(gateway: GatewayUnderTest, body: Body) -> None:
    answer, events = await both(gateway, RESPONSES, body)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert without_ids(events[-1]["response"]) == without_ids(answer)
    texts: dict[tuple[str, int], str] = {}
    for event in events:
        place = (event.get("item_id", ""), event.get("content_index", 0))
        if event["type"].endswith("text.delta"):
            texts[place] = texts.get(place, "") + event["delta"]
        elif event["type"].endswith("text.done"):
            assert texts.get(place, "") == event["text"]


@FUZZ
@given(body=_messages)
async def test_messages_say_the_same_streamed_and_in_one_piece(gateway: GatewayUnderTest, body: Body) -> None:
    answer, events = await both(gateway, MESSAGES, body)
    assert without_ids(message_of(events)) == without_ids(answer)


# What is wrong.

_RANGES = {
    CHAT: (*RANGES, *CHAT_RANGES),
    COMPLETIONS: (*RANGES, *COMPLETION_RANGES),
    RESPONSES: (("temperature", 0, 2), ("top_p", 0, 1), ("max_output_tokens", 16, 2**32 - 1), ("top_logprobs", 0, 20)),
    MESSAGES: (("temperature", 0, 1), ("top_p", 0, 1), ("max_tokens", 1, 2**32 - 1)),
}
_VALID: dict[str, Body] = {
    CHAT: {"model": "m", "messages": _told("hi")},
    COMPLETIONS: {"model": "m", "prompt": "hi"},
    RESPONSES: {"model": "m", "input": "hi"},
    MESSAGES: {"model": "m", "messages": _told("hi"), "max_tokens": 9},
}
_STRUCTS = {CHAT: ChatRequest, COMPLETIONS: CompletionRequest, RESPONSES: ResponseRequest, MESSAGES: MessagesRequest}
_ANY: list[Any] = [True, 7, -1.5, "text", {}, [], {"a": 1}, [[]], [None]]


def _fits(hint: Any, value: Any) -> bool:
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError:
        return False
    return True


def _mistakes(path: str) -> list[tuple[str, Any]]:
    """Fields with values that they cannot have: beyond their range, of another type, and fields that are not there."""
    hints = typing.get_type_hints(_STRUCTS[path])
    beyond = [(name, value) for name, low, high in _RANGES[path] for value in (low - 1, high + 1)]
    typed = [(name, value) for name, hint in hints.items() for value in _ANY if not _fits(hint, value)]
    return [*beyond, *typed, *((name, None) for name in _VALID[path]), ("unheard_of", 1)]


@FUZZ
@given(st.sampled_from([(path, *mistake) for path in _VALID for mistake in _mistakes(path)]), st.booleans())
async def test_what_is_wrong_is_named(gateway: GatewayUnderTest, wrong: tuple[str, str, Any], stream: bool) -> None:
    path, name, value = wrong
    answer = await gateway.http.post(path, json={**_VALID[path], "stream": stream, name: value})
    assert answer.status_code == 400, answer.text
    check_error(path, name, answer)


def check_error(path: str, name: str, answer: httpx.Response) -> None:
    """The envelope of the API, which names the field."""
    body = answer.json()
    error = body["error"]
    assert f"'{name}" in error["message"]
    if path == MESSAGES:
        assert (body["type"], error["type"], set(error)) == ("error", "invalid_request_error", {"type", "message"})
    else:
        assert set(error) == {"message", "type", "param", "code"}
        assert error["param"].partition("[")[0].partition(".")[0] == name
