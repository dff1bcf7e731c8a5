"""Clients behave badly; the others must not notice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket

from benchmarks.faults.stage import Stage, scenario
from benchmarks.systems.answer import Answer
from benchmarks.systems.system import Pace, Setup, System

_LONG = 3000
_PAUSED = 3.0
_STORM = 100
_MEBIBYTE = 1 << 20


@scenario(lambda: Setup(workers=(Pace(step=0.001), Pace(step=0.001))))
async def slow_reader(stage: Stage) -> None:
    """A client reads nothing of a long answer for 3 s, and then all of it. It gets every word; the others get theirs as
    fast as ever, and the gateway keeps no pile for it."""
    undisturbed = await stage.ask(max_tokens=_LONG)
    before = stage.system.gateways[0].memory()
    reader, writer = await _request(stage.system, max_tokens=_LONG, buffer=4096)
    try:
        async with asyncio.timeout(stage.plan.patience):
            async with stage.traffic():
                await asyncio.sleep(_PAUSED)
            grown = stage.system.gateways[0].memory() - before
            body = await reader.read()
    finally:
        writer.close()
    stage.take(_parse(body, undisturbed), undisturbed)
    if grown > 1:
        stage.outcome.notes.append(f"gateway grew by {grown:.0f} MiB")


@scenario()
async def disconnect_storm(stage: Stage) -> None:
    """A hundred clients hang up in the middle of their answers. Others are answered, and no worker goes on for the
    clients that have gone."""

    async def hang_up() -> None:
        with contextlib.suppress(OSError):
            reader, writer = await _request(stage.system, max_tokens=1000)
            await reader.read(1)
            writer.transport.abort()

    async with stage.traffic(clients=1):
        await asyncio.gather(*(hang_up() for _ in range(_STORM)))
    await stage.forgotten()


async def _request(
    system: System, *, max_tokens: int, buffer: int = _MEBIBYTE
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A streamed request on a socket whose receive buffer has so many bytes; nothing is read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", system.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=buffer)
    asked = system.body(max_tokens=max_tokens, stream=True, stream_options={"include_usage": True})
    body = json.dumps(asked).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    return reader, writer


def _parse(response: bytes, like: Answer) -> Answer:
    """The answer in the bytes of a response, as long as the other one was under way."""
    answer = Answer(duration=like.duration)
    for line in response.splitlines():
        if line.startswith(b"data: "):
            answer.add(line.removeprefix(b"data: ").decode())
    return answer
