"""A page's stream of events, of a real Gradio: an event that begins when none is pending is answered in it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import fastapi
import gradio as gr
import httpx
import msgspec
import pytest

from tests.component.gradio_server import serving
from tests.harness import eventually
from webui.streams import Listeners, Streams

# Gradio's own, on this Python.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")
PAGE = "a-page"


def gradio_app(listeners: Listeners) -> fastapi.FastAPI:
    outer = fastapi.FastAPI()
    outer.add_middleware(Streams, listeners=listeners)
    with gr.Blocks(analytics_enabled=False) as blocks:
        box = gr.Textbox()
        box.submit(str.upper, box, box)
    return gr.mount_gradio_app(outer, blocks, path="/", ssr_mode=False)


async def begin(client: httpx.AsyncClient, text: str) -> None:
    event = {"data": [text], "fn_index": 0, "session_hash": PAGE, "trigger_id": 1}
    (await client.post("/gradio_api/queue/join", json=event)).raise_for_status()


async def messages(response: httpx.Response) -> AsyncIterator[tuple[str, object]]:
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            message = msgspec.json.decode(line.removeprefix("data: "))
            yield message["msg"], (message.get("output") or {}).get("data")


async def test_events_that_begin_when_none_is_pending_are_answered_in_the_stream_that_is_open() -> None:
    async with serving(gradio_app(Listeners())) as client:
        await begin(client, "one")
        said: list[object] = []
        last = ""
        async with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": PAGE}) as stream:
            async for kind, data in messages(stream):
                if kind == "process_completed":
                    said.append(data)
                    if len(said) < 4:
                        await begin(client, f"no. {len(said)}")
                last = kind
        assert said == [["ONE"], ["NO. 1"], ["NO. 2"], ["NO. 3"]]
        assert last == "close_stream"  # a page that asks for nothing holds no connection
        await begin(client, "again")  # and one that comes back is answered in another stream
        async with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": PAGE}) as stream:
            assert [data async for kind, data in messages(stream) if kind == "process_completed"] == [["AGAIN"]]


async def test_a_page_is_told_more_in_the_stream_that_is_open_and_nothing_when_there_is_none() -> None:
    listeners = Listeners()
    async with serving(gradio_app(listeners)) as client:
        page = listeners.find(PAGE)
        assert not await page.tell(b"data: nobody hears this\n\n")
        await begin(client, "one")
        async with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": PAGE}) as stream:
            lines = stream.aiter_lines()
            assert await page.listens()
            assert await page.tell(b"data: told\n\n")
            assert "data: told" in [line async for line in lines]
        await eventually(lambda: page.streams == 0)
        assert not await page.tell(b"data: nor this\n\n")
