"""What of the arena's web server is open, and how much may come in; in front of an application that answers all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from tests.harness import eventually
from webui.doors import JOIN, UPLOAD, Doors
from webui.scratch import Scratch
from webui.streams import Listeners
from webui.traffic import Traffic, TrafficLimits

COOKIE = {"cookie": "mesh_visitor=ann"}
PEER = "192.0.2.9"


async def everything(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes whatever comes."""
    length = len(await Request(scope, receive).body())
    await PlainTextResponse(f"{length} bytes")(scope, receive, send)


def client(app: Any, peer: str = PEER) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(peer, 1)), base_url="http://arena")


@pytest.mark.parametrize(
    "path",
    """/ /gradio_api/app_id /leaderboard /shared?key=x /assets/index-x.js /static/img/logo.svg /theme.css?v=1 /config
    /healthz /gradio_api/queue/data?session_hash=x /gradio_api/heartbeat/x
    /gradio_api/file=/tmp/uploads/x/cat.png""".split(),
)
async def test_what_pages_use_is_open(path: str) -> None:
    async with client(Doors(everything, ["", "leaderboard", "shared"])) as http:
        assert (await http.get(path)).status_code == 200


@pytest.mark.parametrize(
    "path",
    """/gradio_api/token /gradio_api/info /gradio_api/file=http://169.254.169.254/ /gradio_api/file=https://a.example/x
    /gradio_api/proxy=http://127.0.0.1:2379/ /gradio_api/dev/reload /monitoring/summary /gradio_api/deep_link
    /gradio_api/call/x/y /docs.json /nothing /about""".split(),
)
async def test_what_they_do_not_use_is_not(path: str) -> None:
    async with client(Doors(everything, ["", "leaderboard", "shared"])) as http:
        answer = await http.get(path)
    assert answer.status_code == 404
    assert "There is no such page" in answer.text


@pytest.mark.parametrize("path", ["/gradio_api/run/x", "/gradio_api/cancel", "/gradio_api/process_recording", "/"])
async def test_nothing_can_be_sent_but_events_uploads_and_passwords(path: str) -> None:
    async with client(Doors(everything, ["", "leaderboard", "shared"])) as http:
        assert (await http.post(path, json={})).status_code == 404
        assert (await http.options(JOIN)).status_code == 404  # what asks whether scripts of other sites may


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site", "origin": "http://arena"}, 403),
        ({"origin": "http://arena"}, 200),
        ({"origin": "https://elsewhere.example"}, 403),
        ({"origin": "null"}, 403),
        ({}, 200),
    ],
    ids=str,
)
async def test_pages_of_other_sites_cannot_vote(headers: dict[str, str], status: int) -> None:
    async with client(Doors(everything, ["", "leaderboard", "shared"])) as http:
        for path in (JOIN, UPLOAD, "/login"):
            assert (await http.post(path, content=b"{}", headers=headers)).status_code == status


async def test_what_is_sent_says_how_long_it_is_and_is_not_too_long() -> None:
    async def unknown() -> AsyncIterator[bytes]:
        yield b"{}"

    async with client(Doors(everything, ["", "leaderboard", "shared"])) as http:
        assert (await http.post(JOIN, content=unknown())).status_code == 411
        answer = await http.post(JOIN, content=b"x" * (4 * 1024**2 + 1))
        assert answer.status_code == 413
        assert answer.json()["detail"] == "This is too large: at most 4,096 KiB are taken at once."
        assert (await http.post(UPLOAD, content=b"x" * (10 * 1024**2))).status_code == 200
        assert (await http.post(UPLOAD, content=b"x" * (11 * 1024**2))).status_code == 413


async def test_a_sender_who_dawdles_is_taken_to_have_left() -> None:
    got: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while not got or got[-1]["type"] != "http.disconnect":
            got.append(await receive())

    parts = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> Message:
        return parts.pop() if parts else await asyncio.Future()

    async def send(_: Message) -> None: ...

    scope = {"type": "http", "method": "POST", "path": JOIN, "headers": [(b"content-length", b"2")]}
    await asyncio.wait_for(Doors(app, [], patience=0.05)(scope, receive, send), 5)
    assert [each["type"] for each in got] == ["http.request", "http.disconnect"]


def traffic(folder: Path, app: Any = everything, space: int = 1000, **limits: int) -> Traffic:
    return Traffic(app, Listeners(), Scratch(folder, space), TrafficLimits(**limits))


def event(page: str) -> bytes:
    return msgspec.json.encode({"session_hash": page, "data": []})


async def test_events_of_one_network_are_counted_and_an_ipv6_network_is_one(tmp_path: Path) -> None:
    app = traffic(tmp_path, events=2)
    async with client(app, "2001:db8::1") as one, client(app, "2001:db8::2") as same, client(app, PEER) as other:
        assert (await one.post(JOIN, content=event("p"))).text == f"{len(event('p'))} bytes"
        answer = await same.post(JOIN, content=event("q"))
        assert answer.status_code == 429
        assert answer.json()["detail"] == "Too much comes from your network: please wait 30 s and try again."
        assert answer.headers["retry-after"] == "30"
        assert (await other.post(JOIN, content=event("p"))).status_code == 200


async def test_one_network_does_not_open_pages_without_end(tmp_path: Path) -> None:
    app = traffic(tmp_path, pages=1)
    app._listeners.find("known")  # pyright: ignore[reportPrivateUsage]
    async with client(app) as http:
        statuses = [(await http.post(JOIN, content=event(page))).status_code for page in ("new", "another", "known")]
        assert statuses == [200, 429, 200]
        assert (await http.post(JOIN, content=event("x" * 65))).status_code == 400


async def test_streams_that_are_open_are_counted(tmp_path: Path) -> None:
    end = asyncio.Event()

    async def listening(scope: Scope, receive: Receive, send: Send) -> None:
        await end.wait()
        await everything(scope, receive, send)

    app = traffic(tmp_path, listening, streams=1)
    async with client(app) as http:
        first = asyncio.create_task(http.get("/gradio_api/queue/data"))
        await eventually(lambda: app._streams)  # pyright: ignore[reportPrivateUsage]
        answer = await http.get("/gradio_api/heartbeat/x")
        assert (answer.status_code, answer.text[:23]) == (429, "Too many pages are open")
        end.set()
        assert (await first).status_code == 200
        assert (await http.get("/gradio_api/queue/data")).status_code == 200


async def test_uploads_of_a_visitor_are_counted_and_weighed(tmp_path: Path) -> None:
    app = traffic(tmp_path, uploads=2, upload_bytes=1024**2, space=1024**3)
    async with client(app) as http:
        assert (await http.post(UPLOAD, content=b"x")).status_code == 403  # of nobody
        assert (await http.post(UPLOAD, content=b"x" * 2**19, headers=COOKIE)).status_code == 200
        heavy = await http.post(UPLOAD, content=b"x" * (2**19 + 2**18), headers=COOKIE)
        assert heavy.text == "At most 2 images and 1 MiB an hour are taken: please wait 15 min."
        assert (await http.post(UPLOAD, content=b"x", headers=COOKIE)).status_code == 429
        assert (await http.post(UPLOAD, content=b"x", headers={"cookie": "mesh_visitor=ben"})).status_code == 200


async def test_the_disk_has_room_for_so_much_and_is_swept(tmp_path: Path) -> None:
    app = traffic(tmp_path, space=1000)
    scratch = Scratch(tmp_path, 1000)
    old = scratch.uploads / "sha" / "cat.png"
    old.parent.mkdir()
    old.write_bytes(b"x" * 990)
    sample = scratch.shown / "sample.png"
    sample.write_bytes(b"x")
    async with client(app) as http:
        answer = await http.post(UPLOAD, content=b"x" * 100, headers=COOKIE)
        assert (answer.status_code, answer.text[:16]) == (507, "There is no room")
        scratch.sweep()
        assert old.exists()
        scratch.sweep([sample], age=-1)
        assert not old.parent.exists()
        assert sample.exists()
        assert (await http.post(UPLOAD, content=b"x" * 100, headers=COOKIE)).status_code == 200
