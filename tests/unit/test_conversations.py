"""Records of every shape become the same conversations, and come out as they went in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.conversations import (
    BadConversation,
    Conversation,
    Message,
    conversation,
    fastchat_record,
    openai_record,
)

QUESTION, ANSWER = Message("user", "How far is the moon?"), Message("assistant", "384,400 km.")
SYSTEM = Message("system", "Be short.")

_texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
_messages = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant", "tool"]), _texts), min_size=1, max_size=8
).map(tuple)
conversations = st.builds(
    Conversation, _messages, st.none() | _texts, st.dictionaries(st.sampled_from(["model", "language"]), _texts)
)


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": "user", "content": QUESTION.content}, {"role": "assistant", "content": ANSWER.content}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "How far is "}, {"type": "text", "text":
            "the moon?"}]}, {"role": "assistant", "content": ANSWER.content}]},
        {"conversation": [{"role": "user", "content": QUESTION.content},
            {"role": "assistant", "content": ANSWER.content}]},
        {"conversations": [{"from": "human", "value": QUESTION.content}, {"from": "gpt", "value": ANSWER.content}]},
        {"prompt": QUESTION.content, "completion": ANSWER.content},
        {"instruction": QUESTION.content, "input": "", "output": ANSWER.content},
        {"instruction": QUESTION.content, "output": ANSWER.content},
    ],
)  # fmt: skip
def test_shapes(record: dict[str, Any]) -> None:
    assert conversation(record) == Conversation((QUESTION, ANSWER))


def test_alpaca_with_everything() -> None:
    record = {
        "system": "Be short.",
        "history": [["Hi", "Hello."]],
        "instruction": "Translate.",
        "input": "Guten Tag",
        "output": "Good day",
    }
    texts = [(message.role, message.content) for message in conversation(record).messages]
    assert texts == [
        ("system", "Be short."),
        ("user", "Hi"),
        ("assistant", "Hello."),
        ("user", "Translate.\n\nGuten Tag"),
        ("assistant", "Good day"),
    ]


def test_sharegpt_with_a_system_field() -> None:
    turns = [{"from": "human", "value": QUESTION.content}, {"from": "chatgpt", "value": ANSWER.content}]
    assert conversation({"system": "Be short.", "conversations": turns}).messages == (SYSTEM, QUESTION, ANSWER)


def test_what_else_a_record_says_is_kept() -> None:
    record: dict[str, Any] = {
        "id": "a",
        "messages": [
            {"role": "user", "content": "What is the time?"},
            {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function"}]},
            {"role": "tool", "content": "noon", "tool_call_id": "1"},
        ],
        "tools": [{"type": "function"}],
        "model": "gpt-4",
    }
    assert openai_record(conversation(record)) == record
    assert conversation(fastchat_record(conversation(record))) == conversation(record)


@pytest.mark.parametrize("prompt", [True, False])
def test_preferences(prompt: bool) -> None:
    shared = [{"role": "user", "content": "2 + 2?"}]
    good, bad = [{"role": "assistant", "content": "4"}], [{"role": "assistant", "content": "5"}]
    record: dict[str, Any] = {"prompt": shared} if prompt else {}
    record |= {"chosen": good if prompt else shared + good, "rejected": bad if prompt else shared + bad}
    found = conversation(record)
    assert [message.content for message in found.messages] == ["2 + 2?", "4"]
    assert [message.content for message in found.rejected] == ["5"]
    assert openai_record(found) == {"prompt": shared, "chosen": good, "rejected": bad}
    with pytest.raises(BadConversation, match="a preference has no shape"):
        fastchat_record(found)


@given(conversations)
def test_both_shapes_hold_every_conversation(given: Conversation) -> None:
    assert conversation(openai_record(given)) == given
    assert conversation(fastchat_record(given)) == given


@given(conversations)
def test_exchanges_leave_nothing_out(given: Conversation) -> None:
    after = sum(given.exchanges(), ())
    assert given.system() + after == given.messages
    assert all(message.role != "user" for exchange in given.exchanges() for message in exchange[1:])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "a record must be an object, not a list"),
        ({}, "no known shape: the keys are missing"),
        ({"id": 1, "text": "x"}, "no known shape: the keys are 'text'"),
        ({"messages": []}, "no messages"),
        ({"messages": "x"}, "messages: must be a list of messages, not a text"),
        ({"messages": [None]}, r"messages\[0\]: must be an object, not null"),
        ({"messages": [{"content": "x"}]}, r"messages\[0\]: neither 'role' nor 'from'"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, r"messages\[0\].role: unknown role 'narrator'"),
        ({"conversations": [{"from": "human", "value": 5}]}, r"conversations\[0\].value: must be a text, not a number"),
        ({"conversations": [{"from": "human"}]}, r"conversations\[0\].value: must be a text, not null"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         r"messages\[0\].content\[0\]: only parts of type 'text' can be read"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": "f()"}]},
         r"messages\[0\].tool_calls: must be a list of calls, not a text"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [None]}]},
         r"messages\[0\].tool_calls\[0\]: must be an object, not null"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"function": "f"}]}]},
         r"messages\[0\].tool_calls\[0\].function: must be an object, not a text"),
        ({"system": "a", "conversations": [{"from": "system", "value": "b"}]}, "system: given twice"),
        ({"instruction": "x", "output": "y", "history": [["q"]]}, r"history\[0\]: must be a question and an answer"),
        ({"prompt": [], "chosen": "a", "rejected": "b"}, "prompt: no messages"),
        ({"chosen": "a", "rejected": "b"}, "prompt: no messages"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(record: object, message: str) -> None:
    with pytest.raises(BadConversation, match=message):
        conversation(record)
