"""The log's two formats."""

from __future__ import annotations

import asyncio
import json
import logging
import sys

import pytest

from mesh.log import JsonFormatter, TextFormatter, bind_request_id, kv, setup


def record(message: str, *args: object, error: bool = False, **facts: object) -> logging.LogRecord:
    info = sys.exc_info() if error else None
    made = logging.LogRecord("mesh.test", logging.WARNING, __file__, 1, message, args, info)
    made.__dict__.update(kv(**facts))
    return made


def test_json_is_one_object_a_line():
    line = JsonFormatter("worker").format(record("two\nlines of %s", "ü", model="m", count=3))
    assert "\n" not in line
    parsed = json.loads(line)
    assert parsed["message"] == "two\nlines of ü"
    assert (parsed["service"], parsed["level"], parsed["logger"]) == ("worker", "warning", "mesh.test")
    assert (parsed["model"], parsed["count"]) == ("m", 3)
    assert parsed["time"].endswith("Z")


def test_json_carries_a_traceback_and_what_is_no_json():
    try:
        raise ValueError("the reason")
    except ValueError:
        line = JsonFormatter("worker").format(record("broke", error=True, where={1}))
    parsed = json.loads(line)
    assert "the reason" in parsed["traceback"]
    assert parsed["where"] == "{1}"


def test_text_has_facts_and_colours_only_if_asked():
    plain = TextFormatter(colour=False).format(record("hello", model="m"))
    assert "hello  model=m" in plain
    assert "\x1b" not in plain
    assert "\x1b[33m" in TextFormatter(colour=True).format(record("hello"))


async def test_the_request_id_stays_in_its_task():
    async def one(request_id: str) -> str:
        bind_request_id(request_id)
        await asyncio.sleep(0)
        return json.loads(JsonFormatter("s").format(record("x")))["request_id"]

    assert await asyncio.gather(one("a"), one("b")) == ["a", "b"]
    assert "request_id" not in json.loads(JsonFormatter("s").format(record("x")))


@pytest.mark.parametrize(("choice", "is_json"), [("json", True), ("text", False), ("", True)])
def test_setup_chooses_by_variable_and_terminal(choice: str, is_json: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MESH_LOG", choice)
    monkeypatch.setenv("MESH_LOG_LEVEL", "debug")
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        setup("s")
        assert len(root.handlers) == 1
        assert isinstance(root.handlers[0].formatter, JsonFormatter) is is_json
        assert root.level == logging.DEBUG
    finally:
        root.handlers[:] = before
        root.setLevel(level)


@pytest.mark.parametrize(("variable", "value"), [("MESH_LOG", "xml"), ("MESH_LOG_LEVEL", "loud")])
def test_a_choice_that_there_is_not_is_one_sentence(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit):
        setup("s")
    assert f"mesh-s: {variable} must be one of" in capsys.readouterr().err
