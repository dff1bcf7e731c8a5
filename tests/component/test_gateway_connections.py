"""What a connection may do, over a raw socket: a client that is slow, too large, too many, or no client at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.gateway_worker import FakeWorker
from tests.harness import eventually

GET = b"GET /healthz HTTP/1.1\r\nhost: x\r\n"


@asynccontextmanager
async def raw(gateway: GatewayUnderTest) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def refusal(reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
    """Status and error of an answer after which the server closes."""
    answer = await asyncio.wait_for(reader.read(), 10)
    head, _, content = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head, answer
    return int(head.split()[1]), json.loads(content)["error"]


async def test_headers_that_do_not_come_are_not_waited_for() -> None:
    async with GatewayUnderTest(header_timeout=0.3) as gateway:

        async def begin(data: bytes) -> None:
            async with raw(gateway) as (reader, writer):
                writer.write(data)
                status, error = await refusal(reader)
                assert (status, error["code"]) == (408, "request_timeout"), data
                assert error["message"] == "the headers must be there within 0.3 s"

        await asyncio.gather(*(begin(data) for data in (b"", GET, b"\r\n", b"POST /v1/chat/comp")))


async def test_drops_of_headers_do_not_keep_a_connection() -> None:
    async with GatewayUnderTest(header_timeout=0.5) as gateway, raw(gateway) as (reader, writer):
        writer.write(GET)

        async def ended() -> bool:
            writer.write(b"x-a: b\r\n")
            try:
                async with asyncio.timeout(0.02):
                    return b" 408 " in await reader.readuntil(b"\r\n")
            except TimeoutError:
                return False

        await eventually(ended)


async def test_the_second_request_of_a_connection_has_the_same_time_and_idleness_its_own() -> None:
    async with GatewayUnderTest(header_timeout=0.3, idle_timeout=60) as gateway, raw(gateway) as (reader, writer):
        writer.write(GET + b"\r\n")
        assert b'"ok"' in await reader.readuntil(b"}")
        writer.write(GET[:10])
        assert (await refusal(reader))[0] == 408
    async with GatewayUnderTest(header_timeout=60, idle_timeout=0.3) as gateway, raw(gateway) as (reader, writer):
        writer.write(GET + b"\r\n")
        assert b'"ok"' in await reader.readuntil(b"}")
        assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_headers_have_a_largest_size() -> None:
    large = [
        GET + b"x-a: " + b"a" * 3000 + b"\r\n\r\n",
        GET + b"x-a: b\r\n" * 400 + b"\r\n",
        GET + b"x-a: " + b"a" * 3000,
        b"GET /" + b"a" * 3000,
    ]
    async with GatewayUnderTest(max_header_bytes=2048) as gateway:
        for head in large:
            async with raw(gateway) as (reader, writer):
                writer.write(head)
                status, error = await refusal(reader)
                assert (status, error["code"]) == (431, "headers_too_large")
                assert error["message"] == "the headers must have at most 2048 bytes in all"


async def test_a_body_does_not_count_as_headers_and_has_a_time_of_its_own() -> None:
    async with GatewayUnderTest(max_header_bytes=2048, body_timeout=0.5) as gateway, FakeWorker("w1") as worker:
        await gateway.add(worker)
        assert (await gateway.chat(messages=[{"role": "user", "content": "x" * 100_000}])).status_code == 200
        async with raw(gateway) as (reader, writer):
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n")
            writer.write(b'content-length: 100\r\n\r\n{"mod')
            head = await asyncio.wait_for(reader.readuntil(b"\r\n"), 10)
            assert b" 408 " in head


async def test_the_rest_of_a_refused_body_is_not_waited_for() -> None:
    async with GatewayUnderTest(header_timeout=0.3) as gateway, raw(gateway) as (reader, writer):
        writer.write(b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n")
        assert b" 404 " in await reader.readuntil(b"\r\n")
        writer.write(b"{")
        assert b" 408 " in await asyncio.wait_for(reader.read(), 10)


async def test_what_is_no_http_is_told_so() -> None:
    async with GatewayUnderTest() as gateway, raw(gateway) as (reader, writer):
        writer.write(b"\x16\x03\x01 hello\r\n\r\n")
        status, error = await refusal(reader)
        assert (status, error["type"]) == (400, "invalid_request_error")


async def test_connections_of_an_address_are_counted_and_forgotten() -> None:
    async with GatewayUnderTest(max_connections_per_address=3) as gateway:  # one is the fixture's own
        async with raw(gateway), raw(gateway), raw(gateway) as (reader, _):
            status, error = await refusal(reader)
            assert (status, error["code"]) == (429, "too_many_connections")

        async def there_is_room() -> bool:
            async with raw(gateway) as (reader, writer):
                writer.write(GET + b"connection: close\r\n\r\n")
                return (await reader.read()).startswith(b"HTTP/1.1 200")

        await eventually(there_is_room)


async def test_a_long_answer_is_not_cut_by_the_limits_of_the_next_request() -> None:
    settings = {"header_timeout": 0.1, "idle_timeout": 0.1}
    async with GatewayUnderTest(**settings) as gateway, FakeWorker("w1", length=200, pause=0.005) as worker:
        await gateway.add(worker)
        assert (await gateway.stream(max_tokens=200))[-1] == "[DONE]"
        async with raw(gateway) as (reader, writer):
            body = json.dumps({"model": "m", "prompt": "x", "max_tokens": 100}).encode()
            head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body + GET)
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
