"""What the pages rely on in Gradio, which says nothing of it in its documentation: the form of its events.

When this fails after an upgrade, answers do not reach the pages any more, or are taken for something else. The message
shows what Gradio writes now: webui/pages/words.py has to write the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr
import msgspec
import pytest
from gradio.context import LocalContext

from tests.component.gradio_server import serving
from webui.battle import LiveBattle
from webui.pages import shown
from webui.pages.chat import chatbot
from webui.pages.words import Words
from webui.records import Battle

# Gradio's own, on this Python.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")
PAGE = "a-page"
WORDS = ("one", ' two\n\n\t"three"', " <b>four</b> 五")


def growing() -> LiveBattle:
    record = Battle(id="id", mode="direct", models=("m",), voter="v", opened=datetime(2026, 1, 1, tzinfo=UTC))
    battle = LiveBattle(record)
    battle.ask("hello", (), record.opened)
    return battle


def gradio_app(folder: Path) -> tuple[fastapi.FastAPI, gr.Chatbot]:
    """Gradio's own way to show an answer that grows: a generator."""

    async def answer() -> AsyncIterator[list[dict[str, Any]]]:
        battle = growing()
        for word in WORDS:
            battle.add(0, word)
            yield shown.messages(battle, 0, folder)

    with gr.Blocks(analytics_enabled=False) as blocks:
        chat = chatbot("chat", "answers")
        gr.Button().click(answer, None, chat)
    return gr.mount_gradio_app(fastapi.FastAPI(), blocks, path="/", ssr_mode=False), chat


async def test_what_is_written_past_gradio_is_what_this_gradio_writes(tmp_path: Path) -> None:
    app, chat = gradio_app(tmp_path)
    async with serving(app) as client:
        body: dict[str, Any] = {"data": [], "fn_index": 0, "session_hash": PAGE, "trigger_id": 1}
        begun = (await client.post("/gradio_api/queue/join", json=body)).json()
        heard = (await client.get("/gradio_api/queue/data", params={"session_hash": PAGE})).text
    events = [msgspec.json.decode(line.removeprefix("data: ")) for line in heard.splitlines() if line]
    theirs = [event for event in events if event["msg"] == "process_generating"][: len(WORDS)]
    assert len(theirs) == len(WORDS), f"Gradio {gr.__version__} tells of an answer that grows by {heard}"

    before = LocalContext.event_id.set(begun["event_id"])
    battle, words = growing(), Words([chat], tmp_path)
    try:
        for word, event in zip(WORDS, theirs, strict=True):
            battle.add(0, word)
            ours = msgspec.json.decode((await words.event(battle)).removeprefix(b"data: "))
            told = {**_same(event, ours), "output": _same(event["output"], ours["output"])}
            assert told == ours, f"Gradio {gr.__version__} writes {event}; webui/pages/words.py writes {ours}"
    finally:
        LocalContext.event_id.reset(before)


def _same(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """What of Gradio's event ours has as well: it tells more, of times and of progress."""
    return {key: theirs[key] for key in ours if key in theirs}
