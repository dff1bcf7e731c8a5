"""A client that hangs up: the worker is told in the same moment, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from tests.component.gateway_fixture import GatewayUnderTest, body
from tests.component.gateway_worker import FakeWorker, text_of_tokens, token_at
from tests.harness import eventually


async def post(gateway: GatewayUnderTest, **fields: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a chat request on a socket of its own, and read nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that the kernel soon takes no more
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", gateway.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    data = json.dumps(body(**fields)).encode()
    head = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\n" + head.encode() + data)
    await writer.drain()
    return reader, writer


async def nothing_is_left(gateway: GatewayUnderTest, worker: FakeWorker) -> None:
    await eventually(lambda: not worker.rows)
    await eventually(lambda: not gateway.exchanges.live)
    assert [(len(session), session.unconfirmed) for session in gateway.directory.sessions()] == [(0, 0)]


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "in one piece"])
@pytest.mark.parametrize("stop_after", [0, 5], ids=["in prefill", "in the answer"])
async def test_a_hang_up_reaches_the_worker(stream: bool, stop_after: int) -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        worker.stop_after = stop_after
        _, writer = await post(gateway, stream=stream)
        await eventually(lambda: any(len(row.tokens[0]) == stop_after for row in worker.rows.values()))
        writer.close()
        await eventually(lambda: worker.cancels == [1], within=1)
        await nothing_is_left(gateway, worker)
        assert gateway.metric("mesh_gateway_attempts_total", model="m", outcome="cancelled") == 1


async def test_a_hang_up_of_a_reader_that_does_not_read_reaches_the_worker() -> None:
    async with (
        FakeWorker("w", length=60_000, padding=8000) as worker,
        GatewayUnderTest(credit=64) as gateway,
    ):
        await gateway.add(worker)
        _, writer = await post(gateway, stream=True)
        await eventually(lambda: any(row.credit == 0 for row in worker.rows.values()), within=30)
        writer.transport.abort()
        await nothing_is_left(gateway, worker)


async def test_a_hang_up_in_the_queue_leaves_it() -> None:
    async with GatewayUnderTest() as gateway:
        _, writer = await post(gateway)
        await eventually(lambda: gateway.waiting == 1)
        writer.close()
        await eventually(lambda: gateway.waiting == 0)
        await eventually(lambda: not gateway.exchanges.live)


async def test_many_hang_ups_leave_nothing() -> None:
    async with FakeWorker("w", slots=64, length=10_000) as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        before = len(asyncio.all_tasks())
        for round_ in range(4):
            writers = [(await post(gateway, stream=True))[1] for _ in range(10)]
            await eventually(lambda: len(worker.rows) > 2)
            for writer in writers[round_:] + writers[:round_]:
                writer.close()
            await nothing_is_left(gateway, worker)
        assert len(worker.starts) <= 40
        await eventually(lambda: len(asyncio.all_tasks()) <= before)


async def test_a_reader_that_does_not_read_pauses_its_own_row_only() -> None:
    padding = 8000  # the kernel's buffers are full after some hundred tokens
    async with FakeWorker("w", length=60_000, padding=padding) as worker, GatewayUnderTest(credit=64) as gateway:
        await gateway.add(worker)
        reader, writer = await post(gateway, stream=True)
        await eventually(lambda: len(worker.rows) == 1)
        [row] = worker.rows.values()
        await eventually(lambda: row.credit == 0, within=30)
        sent = len(row.tokens[0])
        assert (await gateway.chat(max_tokens=10)).status_code == 200
        assert len(row.tokens[0]) == sent
        row.length = sent + 100
        received = bytearray()
        while not received.endswith(b"0\r\n\r\n"):
            received += await reader.read(65536)
        writer.close()
    expected = text_of_tokens([token_at(7, 0, position) for position in range(sent + 100)], padding)
    assert streamed_text(bytes(received)) == expected


async def test_a_row_that_waits_for_its_reader_is_not_taken_for_stuck() -> None:
    settings = {"credit": 64, "stall_factor": 2.0, "stall_floor": 0.2}
    async with (
        FakeWorker("a", length=60_000, padding=8000) as a,
        FakeWorker("b") as b,
        GatewayUnderTest(**settings) as gateway,
    ):
        await gateway.add(a)
        _, writer = await post(gateway, stream=True)
        await eventually(lambda: any(row.credit == 0 for row in a.rows.values()), within=30)
        await gateway.add(b)
        await asyncio.sleep(4 * settings["stall_floor"])  # nothing shall happen in this time
        assert (b.starts, a.cancels) == ([], [])
        assert gateway.session("a")
        writer.close()


def streamed_text(raw: bytes) -> str:
    """The text of an answer as it came from the socket."""
    _, _, chunked = raw.partition(b"\r\n\r\n")
    data = bytearray()
    while chunked:
        size, _, rest = chunked.partition(b"\r\n")
        data += rest[: int(size, 16)]
        chunked = rest[int(size, 16) + 2 :]
    events = [json.loads(line[6:]) for line in data.split(b"\n\n") if line.startswith(b"data: {")]
    return "".join(event["choices"][0]["delta"].get("content", "") for event in events)
