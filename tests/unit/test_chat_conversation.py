"""`mesh chat`: what can be done to a conversation, how it is saved, and how answers are counted and shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mesh.cli.answering.endpoint import Answer, End, Piece, sentence
from mesh.cli.chat import parameters
from mesh.cli.chat.commands import image_part
from mesh.cli.chat.conversation import Conversation, text_of
from mesh.cli.chat.display import SimpleDisplay, harmless
from mesh.cli.chat.markdown import MarkdownDisplay
from mesh.cli.chat.saved import Saved, load, save
from mesh.cli.chat.statistics import Statistics
from mesh.errors import ErrorKind, MeshError

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


def talk(*texts: str, system: str | None = None) -> Conversation:
    """A conversation of questions and answers in turn."""
    conversation = Conversation(system)
    for place, text in enumerate(texts):
        if place % 2:
            conversation.answer(text, "")
        else:
            conversation.ask(text)
    return conversation


def texts(conversation: Conversation) -> list[str]:
    return [text_of(message) for message in conversation.all_messages()]


def test_the_system_message_stands_first_and_stays():
    conversation = talk("a", "b", system="Be brief.")
    assert [message["role"] for message in conversation.all_messages()] == ["system", "user", "assistant"]
    conversation.reset()
    assert texts(conversation) == ["Be brief."]
    conversation.system = None
    assert texts(conversation) == []


def test_exchanges_are_removed_by_number_and_from_the_end():
    conversation = talk("q1", "a1", "q2", "a2", "q3", "a3")
    assert conversation.remove(2) == "q2"
    assert texts(conversation) == ["q1", "a1", "q3", "a3"]
    assert conversation.remove() == "q3"
    assert texts(conversation) == ["q1", "a1"]
    with pytest.raises(MeshError, match="exchanges 1 to 1, no 2"):
        conversation.remove(2)
    conversation.remove(1)
    assert conversation.exchanges == []
    with pytest.raises(MeshError, match="nothing to remove"):
        conversation.remove()


def test_what_stands_before_the_first_question_is_in_no_exchange():
    conversation = Conversation.of([{"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "q"}])
    assert len(conversation.exchanges) == 1
    conversation.remove(1)
    assert texts(conversation) == ["Hello!"]


def test_the_last_message_is_asked_anew():
    conversation = talk("q1", "a1", "q2", "a2", system="s")
    assert texts(conversation.unanswered()) == ["s", "q1", "a1", "q2"]
    assert texts(conversation) == ["s", "q1", "a1", "q2", "a2"]
    with pytest.raises(MeshError, match="no answer to regenerate"):
        talk().unanswered()


def test_a_saved_conversation_is_a_chat_request_and_comes_back(tmp_path: Path):
    conversation = talk("q", system="Be brief.")
    conversation.messages[0]["content"] = [IMAGE, {"type": "text", "text": "What is it?"}]
    conversation.answer("A cat — 猫", "Whiskers.")
    path = tmp_path / "c.json"
    save(path, Saved(conversation, "m", {"temperature": 0.5, "stop": ["x"]}))
    body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert set(body) == {"model", "messages", "temperature", "stop"}
    assert body["messages"][2] == {"role": "assistant", "content": "A cat — 猫", "reasoning_content": "Whiskers."}
    assert load(path) == Saved(conversation, "m", {"temperature": 0.5, "stop": ["x"]})
    assert text_of(conversation.messages[0]) == "[image]\nWhat is it?"


def test_a_list_of_messages_is_a_conversation_too(tmp_path: Path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps([{"role": "user", "content": "q", "name": "me"}]))
    assert load(path) == Saved(Conversation(None, [{"role": "user", "content": "q", "name": "me"}]))


def test_what_a_conversation_does_not_have_is_told(tmp_path: Path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"messages": [], "stream": True, "tools": [], "seed": 1}))
    saved = load(path)
    assert (saved.left_out, saved.parameters) == (("stream", "tools"), {"seed": 1})


def test_a_conversation_of_fastchat_is_read(tmp_path: Path):
    path = tmp_path / "fastchat.json"
    found = {
        "template_name": "vicuna_v1.1",
        "system_message": "A chat.",
        "roles": ["USER", "ASSISTANT"],
        "messages": [["USER", "Hi"], ["ASSISTANT", "Hello."], ["USER", "And?"], ["ASSISTANT", None]],
        "offset": 0,
    }
    path.write_text(json.dumps(found))
    assert texts(load(path).conversation) == ["A chat.", "Hi", "Hello.", "And?"]
    assert [message["role"] for message in load(path).conversation.messages] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "3",
        '"x"',
        "{}",
        '{"messages": 3}',
        '{"messages": [3]}',
        '[{"content": "x"}]',
        '[{"role": "user", "content": 3}]',
        '{"template_name": "t", "roles": ["A", "B"], "messages": [["C", "x"]]}',
        '{"template_name": "t", "roles": ["A", "B"], "messages": [["A", ["x", ["picture"]]]]}',
    ],
)
def test_a_file_without_a_conversation_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(MeshError, match="holds no conversation"):
        load(path)


def test_a_file_with_an_unfit_parameter_is_refused(tmp_path: Path):
    path = tmp_path / "c.json"
    path.write_text('{"messages": [], "temperature": "hot"}')
    with pytest.raises(MeshError, match="'temperature' must be a number"):
        load(path)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("temperature", "0", 0),
        ("top_p", "0.5", 0.5),
        ("stop", "END", "END"),
        ("stop", "3", "3"),
        ("stop", '["a", "b"]', ["a", "b"]),
        ("ignore_eos", "true", True),
        ("chat_template_kwargs", '{"enable_thinking": false}', {"enable_thinking": False}),
    ],
)
def test_parameters_are_typed(name: str, text: str, value: object):
    assert parameters.parse(name, text) == value


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("temperature", "hot", "must be a number"),
        ("temperature", "true", "must be a number"),
        ("max_tokens", "1.5", "must be a whole number"),
        ("ignore_eos", "1", "must be true or false"),
        ("temprature", "1", "did you mean temperature"),
    ],
)
def test_unfit_parameters_are_refused(name: str, text: str, words: str):
    with pytest.raises(MeshError, match=words):
        parameters.parse(name, text)


def test_a_picture_goes_by_value(tmp_path: Path):
    path = tmp_path / "x.png"
    path.write_bytes(b"\x00")
    assert image_part(path) == IMAGE
    with pytest.raises(MeshError, match="no picture"):
        image_part(tmp_path / "x.txt")


def answer(*pieces: str, end: End | None = None) -> Answer:
    """An answer of these pieces."""
    found = Answer()
    for text in pieces:
        found.take(Piece(text))
    if end is not None:
        found.take(end)
    return found


def test_tokens_are_those_of_the_usage_else_pieces():
    assert answer("a", "b", end=End("stop", 5, 7)).tokens == 7
    assert answer("a", "b").tokens == 2
    assert (answer().tokens, answer().first_token, answer().tokens_per_second) == (0, None, None)


def test_statistics_add_up():
    statistics = Statistics()
    assert str(statistics) == "no answer yet"
    statistics.add(answer("a", end=End("stop", 5, 7)))
    statistics.add(answer("a", "b"))
    assert (statistics.answers, statistics.prompt_tokens, statistics.tokens) == (2, 5, 9)
    last, session = str(statistics).splitlines()
    assert "prompt - tokens, answer 2;" in last
    assert session.startswith("2 answers    prompt 5 tokens, answer 9;")


def test_an_error_is_one_line():
    error = MeshError(ErrorKind.NO_WORKER, "no worker\nserves it", retry_after=2.0)
    assert sentence(error) == "no worker serves it (no_worker); try again in 2 s"
    assert sentence(ConnectionError("gone")) == "gone"
    assert sentence(FileNotFoundError(2, "No such file", "/x")) == "/x: No such file"


def test_answers_do_not_steer_the_terminal():
    assert harmless("a\x1b[2Jb\x07\r\n\tc\x9b") == "a[2Jb\n\tc"


def test_a_pipe_gets_the_answer_and_nothing_else(capsys: pytest.CaptureFixture[str]):
    display = SimpleDisplay()
    display.begin()
    display.piece(Piece("hm", reasoning=True))
    display.piece(Piece("yes\x1b"))
    display.finish(answer("yes"), "stopped")
    display.say("a note")
    assert tuple(capsys.readouterr()) == ("yes\x1b\n", "[stopped]\na note\n")


MARKDOWN = """# Title

Some *words*
of a paragraph.

1. one

   more of one

2. two
   - inner

```python
a = 1

b = 2
```
| a | b |
|---|---|
| 1 | 2 |

> quoted

The end.
"""


@pytest.mark.parametrize("size", [1, 2, 7, 50])
def test_markdown_in_pieces_is_shown_as_in_one(capsys: pytest.CaptureFixture[str], size: int):
    def shown(pieces: list[str]) -> str:
        display = MarkdownDisplay()
        display.begin()
        for text in pieces:
            display.piece(Piece(text))
        display.finish(answer(*pieces), None)
        return capsys.readouterr().out

    whole = shown([MARKDOWN])
    assert "2 two" in whole
    assert "```" not in whole
    assert shown([MARKDOWN[at : at + size] for at in range(0, len(MARKDOWN), size)]) == whole
