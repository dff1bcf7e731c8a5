"""The load generator: a process of its own that obeys one JSON command a line and answers each with one JSON line.

{"do": "hold", "streams": 64, "max_tokens": 100000}    open streams and keep them open; answers once all stream
{"do": "count"}                                        what was received since the start, and how many are live
{"do": "drop"}                                         hang up all held streams
{"do": "ask", "requests": 100, "streams": 1, "max_tokens": 1, "gap": 0.0}
                                                       ask in sequence on so many connections; answers with times
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from dataclasses import asdict
from time import perf_counter
from typing import Any, cast

from benchmarks.load.sse import Answer, Connection, Failed, Totals, chat_request, connect

# A command that takes longer has hung.
_LIMIT = 120.0


class Generator:
    """Opens streams against one server."""

    def __init__(self, host: str, port: int, model: str, prompt: str) -> None:
        self._prompt = prompt
        self._host = host
        self._port = port
        self._model = model
        self._totals = Totals()
        self._held: list[Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command."""
        match command.pop("do"):
            case "hold":
                return await self._hold(**command)
            case "count":
                return self._count()
            case "drop":
                return await self._drop()
            case "ask":
                return await self._ask(**command)
            case other:
                raise ValueError(f"unknown command '{other}'")

    async def _hold(self, streams: int, max_tokens: int) -> dict[str, Any]:
        request = self._request(max_tokens)
        streaming = asyncio.Semaphore(0)
        start = perf_counter()
        for _ in range(streams):
            connection = await connect(self._host, self._port, self._totals)
            self._held.append(connection)
            task = asyncio.create_task(_hold_one(connection, request, streaming))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        for _ in range(streams):
            await streaming.acquire()
        return {"seconds": perf_counter() - start, **self._count()}

    def _count(self) -> dict[str, Any]:
        return {"time": perf_counter(), "live": sum(not task.done() for task in self._tasks), **asdict(self._totals)}

    async def _drop(self) -> dict[str, Any]:
        for connection in self._held:
            connection.close()
        self._held.clear()
        await asyncio.gather(*self._tasks)
        return self._count()

    async def _ask(self, requests: int, streams: int, max_tokens: int, gap: float = 0.0) -> dict[str, Any]:
        request = self._request(max_tokens)
        answers: list[Answer] = []
        todo = iter(range(requests))

        async def one_connection() -> None:
            connection = await connect(self._host, self._port, self._totals)
            try:
                for _ in todo:
                    answers.append(await connection.ask(request))
                    await asyncio.sleep(gap)
            finally:
                connection.close()

        start = perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(streams):
                group.create_task(one_connection())
        return {
            "seconds": perf_counter() - start,
            "first_token": [answer.first_token for answer in answers],
            "duration": [answer.duration for answer in answers],
            "frames": [answer.frames for answer in answers],
        }

    def _request(self, max_tokens: int) -> bytes:
        return chat_request(f"{self._host}:{self._port}", self._model, self._prompt, max_tokens, temperature=0)


async def _hold_one(connection: Connection, request: bytes, streaming: asyncio.Semaphore) -> None:
    """One answer to its end, or until it is hung up; what fails is counted in the totals. `streaming` is released once:
    at the first token, or at an end without any."""
    first = asyncio.Event()

    def on_first_token() -> None:
        first.set()
        streaming.release()

    with contextlib.suppress(Failed):
        await connection.ask(request, on_first_token=on_first_token)
    if not first.is_set():
        streaming.release()


async def _serve(generator: Generator) -> None:
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    async for line in commands:
        try:
            async with asyncio.timeout(_LIMIT):
                answer = await generator.obey(json.loads(line))
        except Exception as error:
            answer = {"error": _describe(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _describe(error: BaseException) -> str:
    """The first cause: what a task group raises says only that something went wrong."""
    while isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        error = group.exceptions[0]
    return f"{type(error).__name__}: {error}"


def main() -> None:
    """Serve commands until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompt", default="Tell me about the sea.")
    options = parser.parse_args()
    asyncio.run(_serve(Generator(options.host, options.port, options.model, options.prompt)))


if __name__ == "__main__":
    main()
