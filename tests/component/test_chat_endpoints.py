"""Answers to `mesh chat` from an engine in the same process: text, reasoning, counts, errors, and an end in between."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from mesh.cli.answering.endpoint import End, Event, Piece
from mesh.cli.answering.local import local_endpoint
from mesh.cli.answering.wire import WireEndpoint, to_request
from mesh.cli.chat.chat import Chat
from mesh.cli.chat.commands import run
from mesh.cli.chat.conversation import Conversation
from mesh.cli.chat.display import SimpleDisplay
from mesh.dialects import Dialect
from mesh.engine.scripted import ScriptedEngine, ScriptedOptions
from mesh.errors import MeshError
from mesh.v1 import inference_pb2 as pb
from tests.harness import wait_until

HELLO = {"role": "user", "content": "Hello!"}


@contextlib.contextmanager
def local(engine: ScriptedEngine) -> Generator[WireEndpoint]:
    with contextlib.closing(local_endpoint(engine)) as endpoint:
        yield endpoint


def engine(**options: Any) -> ScriptedEngine:
    return ScriptedEngine(ScriptedOptions(name="m", **options))


def text(events: list[Event], *, reasoning: bool = False) -> str:
    return "".join(event.text for event in events if isinstance(event, Piece) and event.reasoning == reasoning)


def test_an_engine_in_this_process_answers() -> None:
    with local(engine(tokens=7)) as endpoint:
        assert (endpoint.models(), endpoint.where) == (["m"], "this process")
        events = list(endpoint.answer({"model": "m", "messages": [HELLO], "seed": 1}))
        assert len(text(events).split()) == 7
        assert isinstance(events[-1], End)
        assert (events[-1].reason, events[-1].completion_tokens) == ("stop", 8)  # with the one that ends it
        again = list(endpoint.answer({"model": "m", "messages": [HELLO], "seed": 1, "max_tokens": 3}))
        assert again[-1] == End("length", events[-1].prompt_tokens, 3)
        assert text(events).startswith(text(again))


def test_reasoning_is_told_from_the_answer(tmp_path: Any) -> None:
    script = tmp_path / "script.txt"
    script.write_text("<think>Hm, well.</think>Yes.")
    with local(engine(text=str(script), dialect=Dialect("", "think"))) as endpoint:
        events = list(endpoint.answer({"model": "m", "messages": [HELLO]}))
    assert (text(events, reasoning=True), text(events).strip()) == ("Hm, well.", "Yes.")


def test_closing_an_answer_ends_it_in_the_engine() -> None:
    running = engine(tokens=100_000, step_interval=0.001, context_length=200_000)
    with local(running) as endpoint:
        answer = endpoint.answer({"model": "m", "messages": [HELLO]})
        assert isinstance(next(answer), Piece)
        assert running.load().running == 1
        answer.close()
        wait_until(lambda: running.load().running == 0)


def test_what_the_engine_refuses_or_breaks_off_is_said() -> None:
    with local(engine(fail_after=2)) as endpoint:
        answer = endpoint.answer({"model": "m", "messages": [HELLO]})
        with pytest.raises(MeshError, match="failed after 2 tokens"):
            list(answer)
        with pytest.raises(MeshError, match="'temperature' must be between"):
            list(endpoint.answer({"model": "m", "messages": [HELLO], "temperature": -1}))
        with pytest.raises(MeshError, match="'other'"):
            list(endpoint.answer({"model": "other", "messages": [HELLO]}))


def test_pictures_go_with_the_next_message_and_wait_if_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"a picture")
    with local(engine(tokens=3)) as blind, local(engine(tokens=3, vision=True)) as seeing:
        chat = Chat(blind, SimpleDisplay(), "m", Conversation(), {})
        assert run(chat, f"/image {tmp_path}/x.png")
        assert not chat.say("What is it?")
        assert (len(chat.images), chat.conversation.messages) == (1, [])
        chat.endpoint = seeing
        assert chat.say("What is it?")
        assert [part["type"] for part in chat.conversation.messages[0]["content"]] == ["image_url", "text"]
        assert chat.images == []
        assert run(chat, f"/image {tmp_path}/x.png")
        assert run(chat, "/image")
        assert chat.images == []
        assert not run(chat, f"/image {tmp_path}/none.png")


def test_an_answer_is_regenerated_and_stays_if_none_comes() -> None:
    with local(engine(tokens=9)) as sound, local(engine(fail_after=0)) as broken:
        chat = Chat(sound, SimpleDisplay(), "m", Conversation(), {"seed": 1})
        assert chat.say("Hello!")
        first = chat.conversation.messages[1]["content"]
        chat.parameters["seed"] = 2
        assert run(chat, "/regenerate")
        second = chat.conversation.messages[1]["content"]
        assert second != first
        chat.endpoint = broken
        assert not run(chat, "/regenerate")
        assert [message["content"] for message in chat.conversation.messages] == ["Hello!", second]
        assert not chat.say("More?")
        assert len(chat.conversation.messages) == 2


def test_a_chat_becomes_a_request_of_the_wire() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAE="}}
    request = to_request(
        {
            "model": "m",
            "messages": [
                {"role": "user", "content": [picture, {"type": "text", "text": "What is it?"}], "name": "me"},
                {"role": "assistant", "content": "A cat.", "reasoning_content": "Whiskers."},
            ],
            "stop": "END",
            "top_k": 3,
            "reasoning_effort": "low",
            "chat_template_kwargs": {"enable_thinking": False},
        }
    )
    asked, answered = request.chat.messages
    assert (asked.name, asked.parts[0].image, asked.parts[1].text) == (
        *("me", pb.Image(data=b"\x00\x01", media_type="image/png")),
        "What is it?",
    )
    assert (answered.role, answered.reasoning) == ("assistant", "Whiskers.")
    assert (request.sampling.stop, request.sampling.top_k, request.chat.reasoning_effort) == (["END"], 3, "low")
    assert dict(request.chat.template_arguments) == {"enable_thinking": False}


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_k": 1 << 40},
        {"top_k": "x"},
        {"colour": 1},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:a/b;base64,!"}}]}]},
    ],
)
def test_what_the_wire_cannot_hold_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MeshError):
        to_request({"model": "m", "messages": [HELLO], **wrong})
