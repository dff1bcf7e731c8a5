"""The words on their way to a page: what it makes of them is what Gradio would have sent of the whole."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import gradio as gr
import msgspec
import pytest
from gradio.context import LocalContext
from gradio_client.utils import apply_diff  # pyright: ignore[reportUnknownVariableType]  # its types are missing

from webui.battle import LiveBattle
from webui.pages import shown
from webui.pages.chat import chatbot
from webui.pages.words import Words
from webui.records import Answer, Battle, Mode, Picture

# Gradio's own, on this Python.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CODE = "all:\n\tmake it\n    indented\n\n"


class Page:
    """What a browser has of the chats of a battle."""

    def __init__(self, battle: LiveBattle, folder: Path) -> None:
        with gr.Blocks(analytics_enabled=False):
            self._chats = [chatbot(f"chat-{side}", "answers") for side in range(len(battle.record.models))]
        self._battle, self._folder = battle, folder
        LocalContext.event_id.set("the-event")
        self._words = Words(self._chats, folder)
        self._shown: list[Any] = []

    async def hear(self) -> int:
        """Take the next event; its length in bytes."""
        event = await self._words.event(self._battle)
        said = msgspec.json.decode(event.removeprefix(b"data: "))
        assert (said["msg"], said["event_id"]) == ("process_generating", "the-event")
        news = said["output"]["data"]
        known = self._shown
        self._shown = [apply_diff(old, new) for old, new in zip(known, news, strict=True)] if known else news
        return len(event)

    def check(self) -> None:
        """It is what Gradio would have sent, but for the addresses of files."""
        for side, (chat, value) in enumerate(zip(self._chats, self._shown, strict=True)):
            whole = chat.postprocess(cast("Any", shown.messages(self._battle, side, self._folder))).model_dump()
            assert [_told(each) for each in value] == [_told(each) for each in whole]


def _told(message: dict[str, Any]) -> Any:
    parts = [part if part["type"] == "text" else part["alt_text"] for part in message["content"]]
    return message["role"], message["metadata"], parts


def battle(mode: Mode) -> LiveBattle:
    models = ("m",) if mode == "direct" else ("m", "n")
    return LiveBattle(Battle(id="id", mode=mode, models=models, voter="v", opened=NOW, probability=0.5))


@pytest.fixture(autouse=True)
def within_an_event() -> Iterator[None]:
    before = LocalContext.event_id.set(None)
    yield
    LocalContext.event_id.reset(before)


async def test_a_battle_over_two_turns_is_told_word_by_word(tmp_path: Path) -> None:
    live = battle("battle")
    for prompt in ("first", CODE):
        live.ask(prompt, (), NOW)
        page = Page(live, tmp_path)
        await page.hear()
        page.check()
        for word in ("one ", CODE, "<b>three</b> ", '"four"\u2028'):
            for side in range(2):
                live.add(side, word)
            await page.hear()
            page.check()
        live.finish(0, Answer(text="", finish="stop"))
        live.finish(1, Answer(text="", finish="length"))
        await page.hear()
        page.check()
    assert shown.messages(live, 0, tmp_path)[-1]["content"]["text"] == f'one {CODE}<b>three</b> "four"\u2028'


async def test_an_event_is_no_longer_than_what_is_new(tmp_path: Path) -> None:
    live = battle("direct")
    live.ask("a long one", (), NOW)
    page = Page(live, tmp_path)
    await page.hear()
    live.add(0, "word " * 10_000)
    await page.hear()
    live.add(0, "more")
    assert await page.hear() < 400
    page.check()


async def test_reasoning_and_a_picture_come_as_messages_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    live = battle("direct")
    picture = Picture(key="seen", media_type="image/png", data=b"\x89PNG", width=1, height=1)
    live.ask("look", (picture,), NOW)
    page = Page(live, tmp_path)
    await page.hear()
    page.check()
    for reasoning, text in (("hm", ""), (" hm", ""), ("", "yes"), ("", ", yes")):
        live.add(0, text, reasoning)
        await page.hear()
        page.check()
