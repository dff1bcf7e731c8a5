"""A client that does not read: its rows pause, little is kept for it, others notice nothing, and at last it is cut."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from typing import Any

import pytest

from tests.component.gateway_fixture import GatewayUnderTest, body
from tests.component.gateway_worker import FakeWorker
from tests.harness import eventually

CREDIT = 64
PADDING = 8000  # so that a few hundred tokens fill the sockets


async def ask_and_not_read(gateway: GatewayUnderTest, **fields: Any) -> asyncio.StreamWriter:
    """A streamed request on a socket whose kernel soon takes no more."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", gateway.port))
    _, writer = await asyncio.open_connection(sock=sock, limit=1024)
    data = json.dumps(body(stream=True, **fields)).encode()
    head = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\n" + head.encode() + data)
    await writer.drain()
    return writer


def dry(worker: FakeWorker) -> bool:
    """Whether a row waits for its reader."""
    return any(row.credit == 0 for row in worker.rows.values())


def ahead(worker: FakeWorker) -> int:
    """Tokens that the worker has sent of the one row beyond what its gateway has passed on, as its credits say."""
    (row,) = worker.rows.values()
    return len(row.tokens[0]) - sum(credit.tokens for credit in worker.credits)


async def test_it_pauses_alone_and_little_is_kept_for_it() -> None:
    async with FakeWorker("w", length=60_000, padding=PADDING) as worker, GatewayUnderTest(credit=CREDIT) as gateway:
        await gateway.add(worker)
        writer = await ask_and_not_read(gateway)
        await eventually(lambda: dry(worker), within=30)
        # What the gateway keeps: a credit of tokens, and what the socket's buffer in this process holds.
        assert ahead(worker) <= CREDIT
        (exchange,) = gateway.exchanges.live
        assert exchange.connection is not None
        assert not exchange.connection.ready()
        for _ in range(3):
            response = await gateway.chat(max_tokens=20)
            assert response.json()["usage"]["completion_tokens"] == 20
        assert dry(worker)
        writer.transport.abort()
        await eventually(lambda: not worker.rows and not gateway.exchanges.live)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's limit is Linux's")
async def test_it_is_cut_after_a_time() -> None:
    settings = {"credit": CREDIT, "send_timeout": 1.0}
    async with FakeWorker("w", length=60_000, padding=PADDING) as worker, GatewayUnderTest(**settings) as gateway:
        await gateway.add(worker)
        writer = await ask_and_not_read(gateway)
        await eventually(lambda: worker.rows)
        await eventually(lambda: not worker.rows and not gateway.exchanges.live, within=20)
        assert worker.cancels == [1]
        writer.transport.abort()
