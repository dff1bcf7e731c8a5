"""Images of chats: what reaches the worker, what is fetched, and what is refused by name."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.openai.images import is_public
from mesh.v1 import inference_pb2 as pb
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.gateway_worker import FakeWorker

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
DATA_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()
SEES = (pb.CAPABILITY_CHAT, pb.CAPABILITY_RESUME, pb.CAPABILITY_VISION)


@asynccontextmanager
async def web(answers: dict[str, tuple[int, dict[str, str], bytes]]) -> AsyncGenerator[str]:
    """A web server on this machine; the path /slow never answers."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        path = request.split(b" ")[1].decode()
        if path != "/slow":
            status, headers, content = answers[path]
            head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            writer.write(f"HTTP/1.1 {status} X\r\n{head}connection: close\r\n\r\n".encode() + content)
            await writer.drain()
            writer.close()
        else:
            await reader.read()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def messages(*urls: Any) -> list[dict[str, Any]]:
    """A message with a text between images."""
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": url} for url in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}]


async def refusal(url: Any, **settings: Any) -> dict[str, Any]:
    """The error that an image is answered with."""
    async with FakeWorker("w1", capabilities=SEES) as worker, GatewayUnderTest(**settings) as gateway:
        await gateway.add(worker)
        answer = await gateway.chat(messages=messages(url))
        assert answer.status_code == 400, answer.text
        return answer.json()["error"]


async def test_data_urls_reach_the_worker_in_their_place() -> None:
    async with FakeWorker("w1", capabilities=SEES) as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        answer = await gateway.chat(messages=messages({"url": DATA_URL, "detail": "low"}, DATA_URL), max_tokens=1)
        assert answer.status_code == 200, answer.text
        first, second, text = worker.starts[0].request.chat.messages[0].parts
    assert (first.image.data, first.image.media_type, first.image.detail) == (PNG, "image/png", "low")
    assert (second.image.data, second.image.detail) == (PNG, "")
    assert text.text == "What?"


async def test_web_addresses_are_fetched_through_redirects() -> None:
    answers = {
        "/a": (302, {"location": "/b"}, b""),
        "/b": (200, {"content-type": "image/png"}, PNG),
    }
    gateway = GatewayUnderTest(allow_private_images=True)
    async with web(answers) as url, FakeWorker("w1", capabilities=SEES) as worker, gateway:
        await gateway.add(worker)
        answer = await gateway.chat(messages=messages({"url": f"{url}/a"}), max_tokens=1)
        assert answer.status_code == 200, answer.text
        assert worker.starts[0].request.chat.messages[0].parts[0].image.data == PNG


async def test_private_addresses_are_refused() -> None:
    async with web({"/": (200, {"content-type": "image/png"}, PNG)}) as url:
        port = url.rpartition(":")[2]
        other_spellings = ("localhost", "127.1", "0x7f000001", "2130706433", "0177.0.0.1", "[::ffff:127.0.0.1]", "0")
        same = [f"http://{host}:{port}" for host in other_spellings]
        shown = [url, *same, "http://169.254.169.254/latest", "http://[::1]/"]
        async with FakeWorker("w1", capabilities=SEES) as worker, GatewayUnderTest() as gateway:
            await gateway.add(worker)
            for each in shown:
                answer = await gateway.chat(messages=messages({"url": each}))
                assert answer.status_code == 400, each
                assert answer.json()["error"]["param"] == "messages[0].content[0].image_url.url"
                assert "not one of the open internet" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((404, {"x": ""}, b""), "status 404"),
        ((200, {"content-type": "text/html"}, PNG), "of type 'text/html'"),
        ((200, {"content-type": "image/png"}, b"<svg/>"), "no PNG, JPEG, WebP or GIF"),
        ((200, {"content-type": "image/png", "content-length": "9999999"}, b""), "at most 2048 bytes, not 9999999"),
        ((200, {"content-type": "image/png"}, PNG * 50), "at most 2048 bytes"),
        ((302, {"location": "/"}, b""), "more than 3 redirects"),
        ((302, {"location": "file:///etc/passwd"}, b""), "no plain http or https address"),
        ((302, {"location": "http://u:p@127.0.0.1/"}, b""), "no plain http or https address"),
    ],
)
async def test_what_a_server_answers_is_checked(answer: tuple[int, dict[str, str], bytes], message: str) -> None:
    async with web({"/": answer}) as url:
        error = await refusal({"url": url + "/"}, allow_private_images=True, max_image_bytes=2048)
    assert message in error["message"]
    assert error["code"] == "invalid_request"


async def test_a_redirect_does_not_lead_past_the_list_of_hosts() -> None:
    async with web({"/": (302, {"location": "http://localhost/"}, b"")}) as url:
        error = await refusal({"url": url + "/"}, allow_private_images=True, image_hosts="127.0.0.1")
    assert "'localhost', which this gateway does not fetch from" in error["message"]


async def test_a_slow_server_is_not_waited_for() -> None:
    async with web({}) as url:
        error = await refusal({"url": url + "/slow"}, allow_private_images=True, image_timeout=0.3)
    assert "within 0.3 s" in error["message"]


@pytest.mark.parametrize(
    ("url", "settings", "message"),
    [
        ("http://example.com/a.png", {"image_urls": False}, "fetches no images"),
        ("ftp://example.com/a.png", {}, "must be a data, http or https URL"),
        ("data:text/html;base64,AAAA", {}, "must be of the form"),
        ("data:image/png;base64,%%%", {}, "not valid base64"),
        ("data:image/svg+xml;base64,PHN2Zy8+", {}, "no PNG, JPEG, WebP or GIF"),
        (DATA_URL.replace(",", "," + "AAAA" * 1000), {"max_image_bytes": 2048}, "at most 2048 bytes"),
    ],
)
async def test_what_a_client_names_is_checked(url: str, settings: dict[str, Any], message: str) -> None:
    error = await refusal(url, **settings)
    assert message in error["message"]
    assert error["param"] == "messages[0].content[0].image_url.url"


async def test_models_without_sight_and_too_many_images() -> None:
    async with FakeWorker("w1") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        answer = await gateway.chat(messages=messages(DATA_URL))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported")
        assert "the model 'm' cannot see" in answer.json()["error"]["message"]
    async with FakeWorker("w1", capabilities=SEES) as worker, GatewayUnderTest(max_images=2) as gateway:
        await gateway.add(worker)
        answer = await gateway.chat(messages=messages(*[DATA_URL] * 3))
        assert "at most 2 images, not 3" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("100.100.100.200", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("0.0.0.0", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00:ec2::254", False),
        ("::ffff:127.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b:1::7f00:1", False),
        ("::127.0.0.1", False),
        ("::ffff:0:7f00:1", False),
        ("fec0::1", False),
        ("3fff::1", False),
        ("ff02::1", False),
        ("64:ff9b::808:808", True),
    ],
)
def test_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public
