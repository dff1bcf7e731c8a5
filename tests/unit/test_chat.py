"""Chat templates: what they are given, and what becomes of their complaints."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mesh.dialects import Dialect
from mesh.engine.base import Chat, Image, Message, Tool, ToolCall
from mesh.engine.chat import ChatRenderer
from mesh.engine.text import Tokenizer
from mesh.errors import ErrorKind, MeshError
from tests.unit.tokenizers import byte_level

PLAIN = (
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)
STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}"
)
PARTS = (
    "{% for m in messages %}{% for p in m.content %}{% if p.type == 'text' %}[{{ p.text }}]{% endif %}"
    "{% endfor %}{% endfor %}"
)
TOOLS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.role }}={{ m.content }}"
    "{% for c in m.tool_calls %}{{ c.id }}:{{ c.function.name }}:{{ c.function.arguments.city }}{% endfor %}"
    "{{ m.tool_call_id }}{{ m.reasoning_content }};{% endfor %}"
)


def renderer(template: str | None, *, allow_others: bool = False) -> ChatRenderer:
    return ChatRenderer(Tokenizer(byte_level()), template, allow_others=allow_others)


def chat(*messages: Message, **changes: Any) -> Chat:
    return Chat(messages or (Message("user", ("hi",)),), **changes)


def failure(template: str | None, conversation: Chat, *, allow_others: bool = False) -> MeshError:
    with pytest.raises(MeshError) as caught:
        renderer(template, allow_others=allow_others).render(conversation)
    return caught.value


def test_the_template_writes_all_special_tokens() -> None:
    tokenizer = Tokenizer(byte_level())
    ids = renderer(PLAIN).render(chat())
    bos, eos = tokenizer.hf.bos_token_id, tokenizer.hf.eos_token_id
    assert [token_id for token_id in ids if token_id in tokenizer.special_ids] == [bos, eos, bos]
    assert tokenizer.decode(ids, keep_special_tokens=True) == "<s>user: hi</s><s>assistant:"


def test_text_parts_are_lines_where_the_template_takes_strings() -> None:
    conversation = chat(Message("user", ("one", "two")), add_generation_prompt=False)
    assert renderer(PLAIN).text(conversation) == "<s>user: one\ntwo</s>"


def test_text_parts_are_parts_where_the_template_takes_nothing_else() -> None:
    assert renderer(PARTS).text(chat(Message("user", ("one", "two")))) == "[one][two]"


def test_text_parts_are_lines_where_the_template_takes_both() -> None:
    either = (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        + PARTS
        + "{% endif %}{% endfor %}"
    )
    assert renderer(either).text(chat(Message("user", ("one", "two")))) == "one\ntwo"


def test_a_null_content_has_no_text() -> None:
    conversation = chat(Message("user", ("a",)), Message("assistant", None), add_generation_prompt=False)
    assert renderer(PLAIN).text(conversation) == "<s>user: a</s><s>assistant: </s>"


def test_tools_calls_and_reasoning_reach_the_template() -> None:
    tool = Tool("weather", "Tells it", {"type": "object", "properties": {"city": {"type": "string"}}})
    text = renderer(TOOLS).text(
        chat(
            Message("user", ("hi",)),
            Message("assistant", None, tool_calls=(ToolCall("c1", "weather", '{"city": "Oslo"}'),), reasoning="hm"),
            Message("tool", ("rain",), tool_call_id="c1"),
            tools=(tool,),
        )
    )
    assert '"name": "weather"' in text
    assert '"description": "Tells it"' in text
    assert text.endswith("user=hi;assistant=c1:weather:Oslohm;tool=rainc1;")


def test_template_arguments_reach_the_template() -> None:
    template = "{% if enable_thinking %}think{% else %}do not{% endif %}"
    assert renderer(template).text(chat(template_arguments={"enable_thinking": True})) == "think"
    assert renderer(template).text(chat()) == "do not"


def test_the_final_message_can_be_continued() -> None:
    conversation = chat(
        Message("user", ("hi",)),
        Message("assistant", ("Well",)),
        add_generation_prompt=False,
        continue_final_message=True,
    )
    assert renderer(PLAIN).text(conversation) == "<s>user: hi</s><s>assistant: Well"


@pytest.mark.parametrize("own", [PLAIN, None])
def test_a_request_may_bring_its_template_where_that_is_allowed(own: str | None) -> None:
    shout = chat(chat_template="{{ messages[0].content }}!")
    assert renderer(own, allow_others=True).text(shout) == "hi!"
    error = failure(own, shout)
    assert (error.kind, error.param) == (ErrorKind.UNSUPPORTED, "chat_template")
    assert "--allow-chat-templates" in error.message


def test_a_requests_template_that_is_none() -> None:
    error = failure(PLAIN, chat(chat_template="{% if %}"), allow_others=True)
    assert (error.kind, error.param) == (ErrorKind.INVALID_REQUEST, "chat_template")
    assert "not a valid template" in error.message


def test_capabilities() -> None:
    assert (renderer(PLAIN).has_template, renderer(PLAIN).supports_tools) == (True, True)  # in words
    assert not ChatRenderer(Tokenizer(byte_level()), PLAIN, tool_parser="none").supports_tools
    assert (renderer(TOOLS).has_template, renderer(TOOLS).supports_tools) == (True, True)
    assert (renderer(None).has_template, renderer(None).supports_tools) == (False, False)


def called(arguments: str) -> Chat:
    return chat(Message("assistant", None, tool_calls=(ToolCall("", "f", arguments),)))


def test_several_templates_without_a_default_are_no_template() -> None:
    hf: Any = copy.copy(byte_level())
    hf.chat_template = {"rag": "x", "tool_use": "{{ tools }}"}
    several = ChatRenderer(Tokenizer(hf))
    assert several.supports_tools
    assert several.text(chat(tools=(TOOL,))).startswith("[{")
    with pytest.raises(MeshError, match="'messages' cannot be used") as caught:
        several.render(chat())
    assert caught.value.kind is ErrorKind.UNSUPPORTED


TOOL = Tool("f", "", {})
IMAGE = Image(b"x", "image/png")


@pytest.mark.parametrize(
    ("template", "conversation", "param", "sentence"),
    [
        (STRICT, chat(Message("assistant", ("a",))), "messages", "roles must alternate"),
        ("{{ messages[9].content }}", chat(), "messages", "the chat template refuses"),
        ("{{ messages[0].content + 1 }}", chat(), "messages", "the chat template refuses"),
        ("{{ ''.__class__.__mro__ }}", chat(), "messages", "unsafe"),
        (PLAIN, chat(template_arguments={"tokenize": True}), "template_arguments", "must not set 'tokenize'"),
        (PLAIN, chat(template_arguments={"messages": []}), "template_arguments", "must not set 'messages'"),
        (PLAIN, chat(template_hints={"tools": []}), "template_hints", "must not set 'tools'"),
        (PLAIN, Chat(()), "messages", "at least one message"),
        (PLAIN, chat(continue_final_message=True), "continue_final_message", "excludes 'add_generation_prompt'"),
        (PLAIN, chat(Message("user", ("a\ud800",))), "messages", "lone surrogate"),
        (TOOLS, called("[1]"), "messages", "not a JSON object"),
        (TOOLS, called("{"), "messages", "not a JSON object"),
        (TOOLS, called("[" * 100_000), "messages", "nested too deeply"),
        ("{{ messages | tojson }}", called('{"a":' * 900 + "1" + "}" * 900), "messages", "recursion"),
    ],
)
def test_what_a_template_cannot_render_is_the_clients_error(
    template: str, conversation: Chat, param: str, sentence: str
) -> None:
    error = failure(template, conversation)
    assert error.kind is ErrorKind.INVALID_REQUEST
    assert error.param == param
    assert sentence in error.message


@pytest.mark.parametrize(
    ("template", "conversation", "param", "sentence"),
    [
        (None, chat(), "messages", "no chat template; use /v1/completions"),
        (PLAIN, chat(Message("user", ("see", IMAGE))), "messages", "holds an image"),
    ],
)
def test_what_a_model_cannot_do_is_said_by_name(
    template: str | None, conversation: Chat, param: str, sentence: str
) -> None:
    error = failure(template, conversation)
    assert error.kind is ErrorKind.UNSUPPORTED
    assert error.param == param
    assert sentence in error.message


GRADED = "{{ messages[0].content }} {{ reasoning_effort | default('-') }}"
SWITCHED = "{{ messages[0].content }} {{ enable_thinking | default('-') }}"
BOTH = "{{ messages[0].content }} {{ thinking | default('-') }} {{ reasoning_effort | default('-') }}"


@pytest.mark.parametrize(
    ("template", "effort", "expected"),
    [
        (GRADED, "high", "hi high"),
        (GRADED, "none", "hi none"),
        (GRADED, None, "hi -"),
        (SWITCHED, "none", "hi False"),
        (SWITCHED, "minimal", "hi False"),
        (SWITCHED, "low", "hi True"),
        (SWITCHED, None, "hi -"),
        (BOTH, "none", "hi False -"),
        (BOTH, "high", "hi True high"),
    ],
)
def test_the_effort_reaches_a_template_in_its_own_words(template: str, effort: str | None, expected: str) -> None:
    assert renderer(template).text(chat(reasoning_effort=effort)) == expected


def test_hints_reach_a_template_as_far_as_it_reads_them() -> None:
    hints = {"thinking": True, "enable_thinking": True, "reasoning_effort": "low", "thinking_budget": 1}
    assert renderer(PLAIN).text(chat(template_hints=hints)) == renderer(PLAIN).text(chat())
    assert renderer(BOTH).text(chat(template_hints=hints)) == "hi True low"
    asked = chat(template_hints=hints, template_arguments={"thinking": False})
    assert renderer(BOTH).text(asked) == "hi False low"


def test_what_was_said_by_variable_goes_before_the_effort() -> None:
    asked = chat(reasoning_effort="high", template_arguments={"enable_thinking": False})
    assert renderer(SWITCHED).text(asked) == "hi False"


@pytest.mark.parametrize(
    ("changes", "param"),
    [({"reasoning_effort": "low"}, "reasoning_effort"), ({"template_arguments": {"colour": 1}}, "template_arguments")],
)
def test_what_a_template_does_not_read_is_refused_by_name(changes: dict[str, Any], param: str) -> None:
    error = failure(PLAIN, chat(**changes))
    assert (error.kind, error.param) == (ErrorKind.UNSUPPORTED, param)


def test_the_parsers_come_from_the_template_unless_they_are_named() -> None:
    tokenizer = Tokenizer(byte_level())
    template = "{{ messages }} <tool_call> {{ tools }} </think>"
    assert ChatRenderer(tokenizer, template).dialect == Dialect("hermes", "think")
    named = ChatRenderer(tokenizer, template, tool_parser="none", reasoning_parser="mistral")
    assert named.dialect == Dialect("none", "mistral")
    assert named.with_template(PLAIN).dialect == Dialect("none", "mistral")
    assert named.facts != ChatRenderer(tokenizer, template).facts
    assert renderer(PLAIN).dialect == Dialect("hermes"), "tools in words"
    assert renderer(None).dialect == Dialect()
    assert ChatRenderer(tokenizer).dialect == Dialect()
