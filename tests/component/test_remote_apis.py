"""The remote engine on the wire formats of the three providers: what it sends, what it makes of the answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from mesh.engine.base import (
    ChoiceFinished,
    Constraint,
    Delta,
    Finished,
    FinishReason,
    Image,
    Message,
    Output,
    Progress,
    Request,
    Text,
    Tokens,
    Tool,
    ToolCall,
)
from mesh.errors import ErrorKind, MeshError
from tests.component.fake_provider import (
    ANSWERS,
    FakeProvider,
    Reply,
    anthropic_answer,
    anthropic_event,
    google_chunk,
    openai_answer,
    openai_chunk,
    openai_usage,
    sse,
)
from tests.component.remote_rig import KEY, chat, request, running

PROVIDERS = ("openai", "anthropic", "google")
# U+2028 ends a line for Python, not for the protocol.
TEXTS = ("Hel", "lo \u2028", "wörld\n")


@pytest.mark.parametrize("name", PROVIDERS)
async def test_an_answer_with_its_counts(name: str) -> None:
    async with FakeProvider(Reply(ANSWERS[name](*TEXTS))) as provider, running(provider, name) as rig:
        events = await rig.ask()
        key = events[0].key
    assert rig.started(key).text_only
    assert [event.text for event in events if isinstance(event, Delta)] == list(TEXTS)
    assert not any(event.token_ids for event in events if isinstance(event, Delta))
    end, last = events[-2:]
    assert end == ChoiceFinished(key, 0, FinishReason.STOP)
    assert isinstance(last, Finished)
    assert (last.prompt_tokens, last.cached_tokens, last.completion_tokens) == (7, 2, 3)


LENGTHS = {"openai": "length", "anthropic": "max_tokens", "google": "MAX_TOKENS"}
WITHHELD = {"openai": "content_filter", "anthropic": "refusal", "google": "SAFETY"}


@pytest.mark.parametrize("name", PROVIDERS)
async def test_why_an_answer_ended(name: str) -> None:
    replies = [Reply(ANSWERS[name]("a", finish=word)) for word in (LENGTHS[name], WITHHELD[name])]
    async with FakeProvider(*replies) as provider, running(provider, name) as rig:
        end = (await rig.ask())[-2]
        error = await rig.error()
    assert isinstance(end, ChoiceFinished)
    assert end.reason is FinishReason.LENGTH
    assert error.kind is ErrorKind.FORBIDDEN
    assert WITHHELD[name] in error.message


async def test_a_refusal_and_a_blocked_prompt_are_no_answers() -> None:
    async with FakeProvider(Reply([openai_chunk(refusal="I will not")])) as provider, running(provider) as rig:
        assert (await rig.error()).kind is ErrorKind.FORBIDDEN
    blocked = Reply([sse({"promptFeedback": {"blockReason": "SAFETY"}})])
    async with FakeProvider(blocked) as provider, running(provider, "google") as rig:
        assert (await rig.error()).kind is ErrorKind.FORBIDDEN


async def test_a_stop_sequence_is_named_where_the_provider_names_it() -> None:
    reply = Reply(anthropic_answer("a", finish="stop_sequence", sequence="END"))
    async with FakeProvider(reply) as provider, running(provider, "anthropic") as rig:
        end = (await rig.ask())[-2]
    assert isinstance(end, ChoiceFinished)
    assert (end.reason, end.stop_string) == (FinishReason.STOP, "END")


SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}
SAMPLING: dict[str, Any] = {"temperature": 0.25, "top_p": 0.5, "max_tokens": 9, "stop": ("x", "y")}
MESSAGES = (
    Message("system", ("Be brief.",)),
    Message("user", ("Look:", Image(b"\x89PNG", "image/png"))),
    Message("assistant", None, tool_calls=(ToolCall("c1", "area", '{"of": "room"}'), ToolCall("c2", "now", ""))),
    Message("tool", ("12",), tool_call_id="c1"),
    Message("tool", ("noon",), tool_call_id="c2"),
    Message("user", ("So?",)),
)
TOOLS = (Tool("area", "of a thing", {"type": "object"}), Tool("now", "", {}))
PICTURE = base64.b64encode(b"\x89PNG").decode()


async def sent(name: str, wanted: Request, **options: Any) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Path, headers and body that reach the provider."""
    async with FakeProvider(Reply(ANSWERS[name]("a"))) as provider, running(provider, name, **options) as rig:
        await rig.ask(wanted)
        (seen,) = provider.seen
    return seen.path, seen.headers, seen.body


async def test_openai_gets_every_option_that_it_has() -> None:
    more = {"frequency_penalty": 0.5, "presence_penalty": -0.5, "n": 1, "seed": -3, "logit_bias": {4: 2.0}}
    prompt = chat(*MESSAGES, tools=TOOLS)
    wanted = request(prompt, sampling=SAMPLING | more, constraint=Constraint("json_schema", json.dumps(SCHEMA)))
    path, headers, body = await sent("openai", wanted)
    assert (path, headers["authorization"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    messages, tools = body.pop("messages"), body.pop("tools")
    assert body == {
        "model": "their-model",
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.25,
        "top_p": 0.5,
        "max_tokens": 9,
        "stop": ["x", "y"],
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "seed": -3,
        "logit_bias": {"4": 2.0},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
        },
    }
    assert list(body["response_format"]["json_schema"]["schema"]["properties"]) == ["b", "a"]
    assert messages == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look:"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}", "detail": "auto"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "area", "arguments": '{"of": "room"}'}},
                {"id": "c2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "content": "12", "tool_call_id": "c1"},
        {"role": "tool", "content": "noon", "tool_call_id": "c2"},
        {"role": "user", "content": "So?"},
    ]
    assert [tool["function"]["name"] for tool in tools] == ["area", "now"]


async def test_anthropic_gets_every_option_that_it_has() -> None:
    prompt = chat(*MESSAGES, tools=TOOLS)
    constraint = Constraint("json_schema", json.dumps(SCHEMA))
    path, headers, body = await sent(
        "anthropic", request(prompt, sampling=SAMPLING | {"top_k": 3}, constraint=constraint)
    )
    assert (path, headers["x-api-key"], headers["anthropic-version"]) == ("/v1/messages", KEY, "2023-06-01")
    assert body == {
        "model": "their-model",
        "stream": True,
        "temperature": 0.25,
        "top_p": 0.5,
        "top_k": 3,
        "max_tokens": 9,
        "stop_sequences": ["x", "y"],
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look:"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": "c1", "name": "area", "input": {"of": "room"}},
                    {"type": "tool_use", "id": "c2", "name": "now", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "12"}]},
                    {"type": "tool_result", "tool_use_id": "c2", "content": [{"type": "text", "text": "noon"}]},
                    {"type": "text", "text": "So?"},
                ],
            },
        ],
        "tools": [
            {"name": "area", "description": "of a thing", "input_schema": {"type": "object"}},
            {"name": "now", "description": "", "input_schema": {"type": "object", "properties": {}}},
        ],
    }


async def test_google_gets_every_option_that_it_has() -> None:
    more = {"top_k": 3, "seed": 8, "frequency_penalty": 0.5, "presence_penalty": -0.5}
    prompt = chat(*MESSAGES, tools=TOOLS)
    path, headers, body = await sent(
        "google", request(prompt, sampling=SAMPLING | more, constraint=Constraint("json_object"))
    )
    assert path == "/v1/models/their-model:streamGenerateContent?alt=sse"
    assert headers["x-goog-api-key"] == KEY
    assert body == {
        "generationConfig": {
            "temperature": 0.25,
            "topP": 0.5,
            "topK": 3,
            "maxOutputTokens": 9,
            "stopSequences": ["x", "y"],
            "seed": 8,
            "frequencyPenalty": 0.5,
            "presencePenalty": -0.5,
            "responseMimeType": "application/json",
            "responseJsonSchema": {"type": "object"},
        },
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {
                "role": "user",
                "parts": [{"text": "Look:"}, {"inlineData": {"mimeType": "image/png", "data": PICTURE}}],
            },
            {
                "role": "model",
                "parts": [
                    {"functionCall": {"name": "area", "args": {"of": "room"}}},
                    {"functionCall": {"name": "now", "args": {}}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"name": "area", "response": {"result": "12"}}},
                    {"functionResponse": {"name": "now", "response": {"result": "noon"}}},
                    {"text": "So?"},
                ],
            },
        ],
        "tools": [
            {
                "functionDeclarations": [
                    {"name": "area", "description": "of a thing", "parametersJsonSchema": {"type": "object"}},
                    {"name": "now", "description": "", "parametersJsonSchema": {}},
                ]
            }
        ],
    }


@pytest.mark.parametrize("name", PROVIDERS)
async def test_what_is_unset_is_left_to_the_provider(name: str) -> None:
    _, _, body = await sent(name, request())
    options = body.get("generationConfig", body)
    assert not {"temperature", "top_p", "topP", "seed", "n", "stop", "tools", "system"} & set(options)
    assert body.get("max_tokens") == (4096 if name == "anthropic" else None)


async def test_extensions_reach_a_server_that_is_known_to_honour_them() -> None:
    wanted = request(
        sampling={"top_k": 3, "stop_token_ids": (7, 8), "ignore_eos": True, "min_tokens": 2}, cache_salt="pepper"
    )
    known = frozenset({"top_k", "stop_token_ids", "ignore_eos", "min_tokens", "cache_salt"})
    _, _, body = await sent("openai", wanted, extensions=known)
    expected = {"top_k": 3, "stop_token_ids": [7, 8], "ignore_eos": True, "min_tokens": 2, "cache_salt": "pepper"}
    assert expected.items() <= body.items()


async def test_a_text_goes_to_completions() -> None:
    answer = [sse({"choices": [{"index": 0, "text": "ab", "finish_reason": "length"}]}), openai_usage(1, 1)]
    async with FakeProvider(Reply([*answer, sse("[DONE]")])) as provider, running(provider) as rig:
        events = await rig.ask(request(Text("Once"), sampling={"max_tokens": 1}))
        (seen,) = provider.seen
    assert (seen.path, seen.body["prompt"], seen.body["max_tokens"]) == ("/v1/completions", "Once", 1)
    assert rig.text(events[0].key) == "ab"


async def test_choices_side_by_side() -> None:
    acts = [
        openai_chunk("a", index=0),
        openai_chunk("x", index=1),
        openai_chunk("b", index=0, finish="stop"),
        openai_chunk("y", index=1, finish="length"),
        openai_usage(5, 4),
        sse("[DONE]"),
    ]
    async with FakeProvider(Reply(acts)) as provider, running(provider) as rig:
        events = await rig.ask(request(sampling={"n": 2}))
        assert provider.seen[0].body["n"] == 2
    key = events[0].key
    assert (rig.text(key, 0), rig.text(key, 1)) == ("ab", "xy")
    ends = [event for event in events if isinstance(event, ChoiceFinished)]
    assert [(end.choice, end.reason) for end in ends] == [(0, FinishReason.STOP), (1, FinishReason.LENGTH)]


CALL = '<tool_call>\n{"name": "area", "arguments": {"of": "room"}}\n</tool_call>'


def openai_call() -> list[bytes]:
    pieces: list[dict[str, Any]] = [
        {"name": "area", "arguments": ""},
        {"arguments": '{"of": '},
        {"arguments": '"room"}'},
    ]
    chunks = [openai_chunk(tool_calls=[{"index": 0, "id": "c", "function": piece}]) for piece in pieces]
    return [openai_chunk("Well. "), *chunks, openai_chunk(finish="tool_calls"), openai_usage(1, 1), sse("[DONE]")]


def anthropic_call() -> list[bytes]:
    head, *_, ending, stop = ANSWERS["anthropic"](finish="tool_use")
    pieces = [{"type": "input_json_delta", "partial_json": part} for part in ("", '{"of": ', '"room"}')]
    return [
        head,
        anthropic_event("content_block_start", index=0, content_block={"type": "text", "text": "Well. "}),
        anthropic_event("content_block_stop", index=0),
        anthropic_event(
            "content_block_start", index=1, content_block={"type": "tool_use", "name": "area", "input": {}}
        ),
        *(anthropic_event("content_block_delta", index=1, delta=piece) for piece in pieces),
        anthropic_event("content_block_stop", index=1),
        ending,
        stop,
    ]


def google_call() -> list[bytes]:
    call = {"functionCall": {"name": "area", "args": {"of": "room"}}}
    return [google_chunk({"text": "Well. "}), google_chunk(call, finish="STOP")]


@pytest.mark.parametrize(
    ("name", "answer"), [("openai", openai_call), ("anthropic", anthropic_call), ("google", google_call)]
)
async def test_calls_come_as_text(name: str, answer: Callable[[], list[bytes]]) -> None:
    async with FakeProvider(Reply(answer())) as provider, running(provider, name) as rig:
        events = await rig.ask(request(chat(tools=TOOLS)))
    assert rig.text(events[0].key) == "Well. " + CALL
    assert isinstance(events[-1], Finished)


BOTH = [{"name": "area", "arguments": '{"of": "room"}'}, {"name": "area", "arguments": '{"of": "hall"}'}]


@pytest.mark.parametrize(
    "calls",
    [
        [{"index": 0, "id": f"c{number}", "function": each} for number, each in enumerate(BOTH)],
        [{"id": f"c{number}", "function": each} for number, each in enumerate(BOTH)],
        [{"function": each} for each in BOTH],
    ],
)
async def test_calls_of_servers_that_tell_no_index_and_an_empty_reason(calls: list[dict[str, Any]]) -> None:
    acts = [openai_chunk("Well. ", finish=""), *(openai_chunk(tool_calls=[call], finish="") for call in calls)]
    usage = sse(json.dumps({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": None}}))
    end = [openai_chunk(finish="tool_calls"), usage, sse("[DONE]")]
    async with FakeProvider(Reply([*acts, *end])) as provider, running(provider, "openai") as rig:
        events = await rig.ask(request(chat(tools=TOOLS)))
    assert rig.text(events[0].key) == "Well. " + CALL + CALL.replace("room", "hall")
    assert isinstance(events[-1], Finished)
    assert events[-1].prompt_tokens == 5


def option(**sampling: Any) -> Request:
    return request(sampling=sampling)


def said(**message: Any) -> Request:
    return request(chat(Message("user", ("Hi",), **message)))


REFUSED: list[tuple[str, Request, str]] = [
    ("openai", option(top_k=3), "top_k"),
    ("openai", option(min_p=0.1), "min_p"),
    ("openai", option(best_of=2), "best_of"),
    ("openai", option(include_stop=True), "include_stop"),
    ("openai", request(Tokens((1, 2))), "prompt"),
    ("openai", request(output=Output(logprobs=0)), "logprobs"),
    ("openai", request(output=Output(echo=True)), "echo"),
    ("openai", request(constraint=Constraint("regex", "a+")), "regex"),
    ("openai", request(resume={0: Progress((1,))}), "resume"),
    ("openai", request(adapter="a"), "adapter"),
    ("openai", request(cache_salt="s"), "cache_salt"),
    ("openai", request(chat(template_arguments={"a": 1})), "template_arguments"),
    ("openai", request(chat(continue_final_message=True)), "continue_final_message"),
    ("openai", said(reasoning="hm"), "messages.reasoning"),
    ("anthropic", option(seed=3), "seed"),
    ("anthropic", option(n=2), "n"),
    ("anthropic", option(logit_bias={1: 1.0}), "logit_bias"),
    ("anthropic", option(frequency_penalty=1.0), "frequency_penalty"),
    ("anthropic", request(Text("a")), "prompt"),
    ("anthropic", request(constraint=Constraint("json_object")), "json_object"),
    ("anthropic", said(name="Ann"), "messages.name"),
    ("anthropic", request(chat(Message("user", (Image(b"x", "image/png", "low"),)))), "messages"),
    ("anthropic", request(chat(Message("user", ("a",)), Message("assistant", ("b",)))), "messages"),
    ("anthropic", request(chat(Message("user", ("a",)), Message("system", ("b",)))), "messages"),
    ("google", option(logit_bias={1: 1.0}), "logit_bias"),
    ("google", option(seed=2**40), "seed"),
    ("google", request(chat(tools=(Tool("t", "", {}, strict=True),))), "tools"),
    ("google", request(chat(Message("tool", ("1",), tool_call_id="c"))), "messages"),
    ("google", request(chat(Message("user", (Image(b"x", ""),)))), "messages"),
]


@pytest.mark.parametrize(("name", "wanted", "param"), REFUSED, ids=[f"{name}-{param}" for name, _, param in REFUSED])
async def test_what_a_provider_cannot_honour_is_refused_by_name(name: str, wanted: Request, param: str) -> None:
    async with FakeProvider(Reply(openai_answer())) as provider, running(provider, name) as rig:
        with pytest.raises(MeshError) as caught:
            await rig.engine.submit(wanted)
        assert provider.seen == []
        assert rig.engine.load().running == 0
    assert caught.value.kind in (ErrorKind.UNSUPPORTED, ErrorKind.INVALID_REQUEST)
    assert caught.value.param == param
    assert param.split(".")[-1] in caught.value.message
