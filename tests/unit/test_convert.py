"""Checks of requests: limits, defaults, and what the engine gets."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from mesh.dialects import Dialect
from mesh.engine.base import (
    CallRule,
    Chat,
    Image,
    Message,
    ModelInfo,
    Progress,
    Request,
    Sampling,
    Text,
    Tokens,
    Tool,
    ToolCall,
)
from mesh.errors import ErrorKind, MeshError
from mesh.v1 import inference_pb2 as pb
from mesh.worker.convert import find_model, to_chat, to_embed_inputs, to_request

MODEL = ModelInfo("m", "f1", context_length=100, capabilities=frozenset({"completion"}), vocab_size=50)


def convert(**fields: Any):
    given: dict[str, Any] = {"text": "x", **fields}
    return to_request(pb.GenerateRequest(**given), MODEL, key=1)


def sampling(**fields: Any) -> Sampling:
    return convert(sampling=pb.SamplingOptions(**fields)).sampling


def _options(**options: Any) -> pb.SamplingOptions:
    return pb.SamplingOptions(**options)


def refusal(**fields: Any) -> MeshError:
    with pytest.raises(MeshError) as caught:
        convert(**fields)
    return caught.value


def test_unset_options_are_the_engines_defaults():
    request = convert()
    assert request.sampling == Sampling(seed=request.sampling.seed, drawn_seed=True)
    assert request.request_id
    assert (request.prompt, request.priority, request.credit, request.deadline) == (Text("x"), 0, None, None)
    assert (request.adapter, request.constraint, request.resume) == (None, None, {})


def test_every_sampling_option_arrives():
    options: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 7,
        "min_p": 0.125,
        "typical_p": 0.75,
        "frequency_penalty": -1.5,
        "presence_penalty": 1.25,
        "repetition_penalty": 1.5,
        "logit_bias": {3: 2.5},
        "seed": -9,
        "max_tokens": 12,
        "min_tokens": 4,
        "stop": ("a", "b"),
        "stop_token_ids": (5, 6),
        "ignore_eos": True,
        "n": 2,
        "best_of": 3,
        "keep_special_tokens": True,
        "include_stop": True,
        "drawn_seed": True,
    }
    # No option of the message is missing here, so none can be dropped unseen.
    assert set(options) == {field.name for field in pb.SamplingOptions.DESCRIPTOR.fields}
    assert sampling(**options) == Sampling(**options)


def test_zero_is_a_value_and_not_unset():
    chosen = sampling(temperature=0, min_p=0, seed=0)
    assert (chosen.temperature, chosen.min_p, chosen.seed) == (0, 0, 0)
    assert convert(output=pb.OutputOptions(logprobs=0)).output.logprobs == 0
    assert convert(output=pb.OutputOptions()).output.logprobs is None


def test_a_seed_is_drawn_per_request():
    seeds = {sampling().seed for _ in range(20)}
    assert len(seeds) == 20
    assert all(0 <= seed < 1 << 63 for seed in seeds)


@pytest.mark.parametrize("top_k", [0, -1])
def test_both_spellings_of_no_top_k(top_k: int):
    assert sampling(top_k=top_k).top_k == 0


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("temperature", 0, 100),
        ("top_p", 1e-9, 1),
        ("min_p", 0, 1),
        ("typical_p", 1e-9, 1),
        ("frequency_penalty", -2, 2),
        ("presence_penalty", -2, 2),
        ("repetition_penalty", 0.01, 10),
        ("n", 1, 128),
    ],
)
def test_limits_are_inclusive_and_kept(name: str, low: float, high: float):
    assert getattr(sampling(**{name: low}), name) == low
    assert getattr(sampling(**{name: high}), name) == high
    step = 1 if name == "n" else 0.01
    # Below a low end of "above 0" lies 0 itself.
    for bad in (low - step if low not in (1e-9,) else 0, high + step):
        error = refusal(sampling=_options(**{name: bad}))
        assert (error.kind, error.param) == (ErrorKind.INVALID_REQUEST, name)
        assert f"'{name}'" in error.message
        assert f"{bad:g}" in error.message
        assert f"{high:g}" in error.message


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty"])
def test_nan_is_refused(name: str):
    assert refusal(sampling=_options(**{name: math.nan})).param == name


@pytest.mark.parametrize(
    ("options", "param", "words"),
    [
        ({"top_k": -2}, "top_k", ["-1", "-2"]),
        ({"max_tokens": 0}, "max_tokens", ["1", "0"]),
        ({"max_tokens": 3, "min_tokens": 4}, "min_tokens", ["3", "4"]),
        ({"n": 3, "best_of": 2}, "best_of", ["3", "2"]),
        ({"best_of": 129}, "best_of", ["128", "129"]),
        ({"stop": ["x"] * 65}, "stop", ["64", "65"]),
        ({"stop": [""]}, "stop", ["1", "1024", "0"]),
        ({"stop": ["x" * 1025]}, "stop", ["1024", "1025"]),
        ({"stop_token_ids": [1] * 65}, "stop_token_ids", ["64", "65"]),
        ({"stop_token_ids": [50]}, "stop_token_ids", ["49", "50"]),
        ({"logit_bias": dict.fromkeys(range(1025), 1.0)}, "logit_bias", ["1024", "1025"]),
        ({"logit_bias": {50: 1}}, "logit_bias", ["49", "50"]),
        ({"logit_bias": {1: 100.5}}, "logit_bias", ["100", "100.5", "token 1"]),
        ({"logit_bias": {1: math.nan}}, "logit_bias", ["nan"]),
    ],
)
def test_a_refusal_names_field_limit_and_value(options: dict[str, Any], param: str, words: list[str]):
    error = refusal(sampling=pb.SamplingOptions(**options))
    assert error.param == param
    assert all(word in error.message for word in [param, *words])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text": None, "tokens": pb.TokenIds()}, "tokens"),
        ({"text": None, "tokens": pb.TokenIds(ids=[1, 50])}, "tokens"),
        ({"text": None}, "prompt"),
        ({"priority": 101}, "priority"),
        ({"priority": -101}, "priority"),
        ({"output": pb.OutputOptions(logprobs=21)}, "logprobs"),
        ({"output": pb.OutputOptions(prompt_logprobs=21)}, "prompt_logprobs"),
        ({"constraint": pb.Constraint()}, "constraint"),
        ({"constraint": pb.Constraint(json_object=False)}, "constraint"),
        ({"constraint": pb.Constraint(json_schema="{")}, "json_schema"),
        ({"constraint": pb.Constraint(regex="")}, "regex"),
        ({"constraint": pb.Constraint(grammar="")}, "grammar"),
        ({"constraint": pb.Constraint(choice=pb.Choice())}, "choice"),
        ({"constraint": pb.Constraint(choice=pb.Choice(texts=["a", ""]))}, "choice"),
        ({"resume": pb.Resume(choices=[pb.ChoiceProgress(choice=1)])}, "resume"),
        ({"resume": pb.Resume(choices=[pb.ChoiceProgress(), pb.ChoiceProgress()])}, "resume"),
        ({"resume": pb.Resume(choices=[pb.ChoiceProgress(token_ids=[50])])}, "resume"),
    ],
)
def test_other_fields_are_checked(fields: dict[str, Any], param: str):
    assert refusal(**fields).param == param


def test_prompt_tokens_and_output_options_arrive():
    output = pb.OutputOptions(logprobs=3, prompt_logprobs=2, echo=True, prompt_token_ids=True)
    request = convert(text=None, tokens=pb.TokenIds(ids=[1, 2]), output=output, priority=-4, tenant="t", cache_salt="s")
    assert request.prompt == Tokens((1, 2))
    assert (request.output.logprobs, request.output.prompt_logprobs) == (3, 2)
    assert (request.output.echo, request.output.prompt_token_ids) == (True, True)
    assert (request.priority, request.tenant, request.cache_salt) == (-4, "t", "s")


def test_resume_arrives():
    progress = [pb.ChoiceProgress(choice=1, token_ids=[4, 5], finished=True)]
    request = convert(sampling=pb.SamplingOptions(n=2), resume=pb.Resume(choices=progress))
    assert request.resume == {1: Progress((4, 5), finished=True)}


@pytest.mark.parametrize(
    ("wire", "kind", "value"),
    [
        (pb.Constraint(json_object=True), "json_object", ""),
        (pb.Constraint(json_schema='{"type": "object"}'), "json_schema", '{"type": "object"}'),
        (pb.Constraint(regex="a+"), "regex", "a+"),
        (pb.Constraint(grammar='start: "a"'), "grammar", 'start: "a"'),
        (pb.Constraint(choice=pb.Choice(texts=["a", "b"])), "choice", ("a", "b")),
    ],
)
def test_constraints_arrive(wire: pb.Constraint, kind: str, value: Any):
    constraint = convert(constraint=wire).constraint
    assert constraint is not None
    assert (constraint.kind, constraint.value) == (kind, value)


def test_deadline_counts_from_now():
    deadline = convert(deadline_ms=2000).deadline
    assert deadline is not None
    assert 1.5 < deadline - time.monotonic() <= 2


def test_the_fingerprint_guards_a_resume():
    assert convert(expected_fingerprint="f1")
    error = refusal(expected_fingerprint="f2")
    assert error.kind is ErrorKind.WRONG_MODEL
    assert "f1" in error.message
    assert "f2" in error.message


def test_a_whole_conversation_arrives():
    arguments = struct_pb2.Struct()
    arguments.update({"enable_thinking": True, "budget": 12, "share": 0.5})
    chat = to_chat(
        pb.ChatPrompt(
            messages=[
                pb.ChatMessage(role="system", parts=[pb.ContentPart(text="s")]),
                pb.ChatMessage(
                    role="user",
                    name="ann",
                    parts=[
                        pb.ContentPart(text=""),
                        pb.ContentPart(image=pb.Image(data=b"i", media_type="image/png")),
                    ],
                ),
                pb.ChatMessage(
                    role="assistant",
                    tool_calls=[pb.ToolCall(id="1", name="f", arguments_json="{}")],
                    reasoning="why",
                ),
                pb.ChatMessage(role="tool", tool_call_id="1", parts=[pb.ContentPart(text="r")]),
            ],
            tools=[pb.Tool(name="f", description="d", parameters_json='{"b": 1, "a": 2}', strict=True)],
            template_arguments=arguments,
            template_hints=arguments,
            chat_template="{{ messages }}",
        )
    )
    assert chat == Chat(
        messages=(
            Message("system", ("s",)),
            Message("user", ("", Image(b"i", "image/png", "auto")), name="ann"),
            Message("assistant", None, tool_calls=(ToolCall("1", "f", "{}"),), reasoning="why"),
            Message("tool", ("r",), tool_call_id="1"),
        ),
        tools=(Tool("f", "d", {"b": 1, "a": 2}, strict=True),),
        template_arguments={"enable_thinking": True, "budget": 12, "share": 0.5},
        template_hints={"enable_thinking": True, "budget": 12, "share": 0.5},
        chat_template="{{ messages }}",
    )
    assert isinstance(chat.template_arguments["budget"], int)
    assert list(chat.tools[0].parameters) == ["b", "a"]


def _chat(**fields: Any) -> Chat:
    message = pb.ChatMessage(role="user", parts=[pb.ContentPart(text="x")])
    given: dict[str, Any] = {"messages": [message], **fields}
    return to_chat(pb.ChatPrompt(**given))


def test_continuing_a_message_opens_no_turn():
    assert _chat().add_generation_prompt
    assert not _chat(add_generation_prompt=False).add_generation_prompt
    continued = _chat(continue_final_message=True)
    assert (continued.continue_final_message, continued.add_generation_prompt) == (True, False)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [pb.ChatMessage()]}, "messages"),
        ({"messages": [pb.ChatMessage(role="user", parts=[pb.ContentPart()])]}, "messages"),
        ({"messages": [pb.ChatMessage(role="user", parts=[pb.ContentPart(image=pb.Image())])]}, "messages"),
        (
            {
                "messages": [
                    pb.ChatMessage(role="user", parts=[pb.ContentPart(image=pb.Image(data=b"x", detail="huge"))])
                ]
            },
            "messages",
        ),
        ({"messages": [pb.ChatMessage(role="assistant", tool_calls=[pb.ToolCall()])]}, "messages"),
        ({"tools": [pb.Tool()]}, "tools"),
        ({"tools": [pb.Tool(name="x" * 65)]}, "tools"),
        ({"tools": [pb.Tool(name="f", parameters_json="{")]}, "tools"),
        ({"tools": [pb.Tool(name="f", parameters_json="[1]")]}, "tools"),
        ({"tools": [pb.Tool(name="f", parameters_json="[" * 100_000)]}, "tools"),
        ({"tool_choice": pb.ToolChoice(mode=pb.ToolChoice.MODE_NAMED, name="g")}, "tool_choice"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
    ],
)
def test_conversations_are_checked(fields: dict[str, Any], param: str):
    with pytest.raises(MeshError) as caught:
        _chat(**fields)
    assert caught.value.param == param


def test_tool_choice_says_what_an_answer_must_hold_of_calls():
    tool = pb.Tool(name="f")
    modes = pb.ToolChoice
    assert _chat(tools=[tool]).call_rule == CallRule()
    assert _chat(tools=[tool], tool_choice=pb.ToolChoice(mode=modes.MODE_NONE)).tools == ()
    required = _chat(tools=[tool], tool_choice=pb.ToolChoice(mode=modes.MODE_REQUIRED), single_call=True)
    assert required.call_rule == CallRule(required=True, single=True)
    named = _chat(tools=[tool], tool_choice=pb.ToolChoice(mode=modes.MODE_NAMED, name="f"))
    assert named.call_rule == CallRule(required=True, name="f")
    for choice in (pb.ToolChoice(mode=modes.MODE_REQUIRED), pb.ToolChoice(mode=modes.MODE_NAMED, name="f")):
        with pytest.raises(MeshError) as caught:
            _chat(tool_choice=choice)
        assert (caught.value.kind, caught.value.param) == (ErrorKind.INVALID_REQUEST, "tool_choice")


def test_models_are_found_by_name_or_alone():
    other = replace(MODEL, name="o")
    assert find_model([MODEL], "") is MODEL
    assert find_model([MODEL, other], "o") is other
    with pytest.raises(MeshError, match="'m', 'o'") as caught:
        find_model([MODEL, other], "")
    assert caught.value.kind is ErrorKind.INVALID_REQUEST
    with pytest.raises(MeshError, match="'m', 'o'") as caught:
        find_model([MODEL, other], "x")
    assert caught.value.kind is ErrorKind.MODEL_NOT_FOUND


def test_an_adapter_is_found_as_a_model_or_beside_its_own():
    law, other = replace(MODEL, name="law", base="m", fingerprint="f2"), replace(MODEL, name="o")
    assert find_model([MODEL, law], "") is MODEL
    for name, adapter in (("law", ""), ("m", "law"), ("", "law"), ("law", "law")):
        assert find_model([MODEL, law, other], name, adapter) is law
    for name, adapter in (("o", "law"), ("m", "o"), ("m", "verse")):
        with pytest.raises(MeshError, match=f"'{name}' has no adapter '{adapter}'") as caught:
            find_model([MODEL, law, other], name, adapter)
        assert (caught.value.kind, caught.value.param) == (ErrorKind.MODEL_NOT_FOUND, "adapter")
    request = to_request(pb.GenerateRequest(text="x", expected_fingerprint="f2"), law, key=1)
    assert (request.model, request.adapter) == ("m", "law")


def test_embed_inputs():
    inputs = [pb.EmbedInput(text=""), pb.EmbedInput(tokens=pb.TokenIds(ids=[3]))]
    assert to_embed_inputs(pb.EmbedRequest(inputs=inputs), MODEL) == [Text(""), Tokens((3,))]
    for bad in (
        pb.EmbedRequest(),
        pb.EmbedRequest(inputs=[pb.EmbedInput()]),
        pb.EmbedRequest(inputs=inputs, dimensions=0),
        pb.EmbedRequest(inputs=inputs * 1025),
    ):
        with pytest.raises(MeshError):
            to_embed_inputs(bad, MODEL)


@given(st.binary(max_size=200))
def test_any_bytes_that_parse_convert_or_are_refused_with_a_sentence(data: bytes):
    wire = pb.GenerateRequest()
    try:
        wire.ParseFromString(data)
    except Exception:
        return
    try:
        to_request(wire, MODEL, key=1)
    except MeshError:
        return


CHAT = pb.ChatPrompt(messages=[pb.ChatMessage(role="user", parts=[pb.ContentPart(text="hi")])])


def marked(dialect: Dialect, *, chat: pb.ChatPrompt = CHAT, markup: bool = True) -> Request:
    model = replace(MODEL, dialect=dialect, capabilities=frozenset({"chat", "tools"}))
    return to_request(pb.GenerateRequest(chat=chat, output=pb.OutputOptions(markup=markup)), model, key=1)


def test_who_reads_the_markup_gets_the_marks_and_the_end_of_the_prompt() -> None:
    chat = pb.ChatPrompt()
    chat.CopyFrom(CHAT)
    chat.tools.add(name="f")
    request = marked(Dialect("granite", "think"), chat=chat)
    assert request.output.prompt_end
    assert set(request.sampling.kept_tokens) >= {"<|tool_call|>", "<think>", "</think>"}
    without_tools = marked(Dialect("granite", "think"))
    assert set(without_tools.sampling.kept_tokens) == {"<think>", "</think>"}


@pytest.mark.parametrize(("dialect", "markup"), [(Dialect("granite"), False), (Dialect(), True)])
def test_without_reader_or_dialect_nothing_is_kept(dialect: Dialect, markup: bool) -> None:
    request = marked(dialect, markup=markup)
    assert (request.sampling.kept_tokens, request.output.prompt_end) == ((), False)


def test_tools_need_a_known_dialect_where_somebody_reads_calls() -> None:
    chat = pb.ChatPrompt()
    chat.CopyFrom(CHAT)
    chat.tools.add(name="f")
    with pytest.raises(MeshError, match="--tool-parser") as caught:
        marked(Dialect(), chat=chat)
    assert caught.value.param == "tools"
    assert isinstance(marked(Dialect("none"), chat=chat).prompt, Chat)
    assert isinstance(marked(Dialect(), chat=chat, markup=False).prompt, Chat)
