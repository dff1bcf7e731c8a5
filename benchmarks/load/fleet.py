"""`python -m benchmarks.load.fleet`: a gateway with a thousand workers, while the registry has news without end.

The workers are simulated by this process: one server that plays whichever worker a session asks for, each at a loopback
address of its own and so on a connection of its own (Linux). It sends a load about as often as idle workers do, and
answers each request with one token. The gateway, the registry in it and the wire are real.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import httpx

from benchmarks.processes import Process, free_port, python
from benchmarks.table import markdown
from mesh import wire
from mesh.registry import EtcdClient, EtcdOptions, encode, key_for
from mesh.v1 import inference_pb2 as pb
from mesh.v1 import inference_pb2_grpc as pb_grpc
from mesh.v1.registry_pb2 import WORKER_STATE_READY, ServedModel, WorkerRecord

_BEAT = 0.4
_PROMPT_TOKENS = 4


class Fleet(pb_grpc.InferenceServiceServicer):
    """Every worker at once."""

    def __init__(self) -> None:
        self.sessions = 0

    async def Session(self, requests: AsyncIterator[pb.SessionRequest], context: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See inference.proto."""
        first = (await anext(aiter(requests))).open
        opened = pb.SessionOpened(
            worker_id=first.expected_worker_id, incarnation=first.expected_incarnation, heartbeat=2.0
        )
        await context.write(pb.SessionResponse(opened=opened, load=pb.WorkerLoad(slots=8)))
        self.sessions += 1
        beat = asyncio.create_task(self._beat(context))
        try:
            async for command in requests:
                if command.HasField("start"):
                    await context.write(_answer(command.start))
        finally:
            self.sessions -= 1
            beat.cancel()

    async def _beat(self, context: Any) -> None:
        while True:
            await asyncio.sleep(_BEAT)
            await context.write(pb.SessionResponse(load=pb.WorkerLoad(slots=8)))


def _answer(start: pb.StreamStart) -> pb.SessionResponse:
    started = pb.Started(prompt_tokens=_PROMPT_TOKENS, fingerprint="f")
    events = [
        pb.StreamEvent(started=started),
        pb.StreamEvent(delta=pb.Delta(token_ids=[1], text="x")),
        pb.StreamEvent(choice_finished=pb.ChoiceFinished(reason=pb.FINISH_REASON_LENGTH)),
        pb.StreamEvent(finished=pb.Finished(usage=pb.Usage(prompt_tokens=_PROMPT_TOKENS, completion_tokens=1))),
    ]
    for event in events:
        event.stream_id = start.stream_id
    return pb.SessionResponse(step=1, events=events, load=pb.WorkerLoad(slots=8, steps=1))


def _record(number: int, port: int, news: int = 0) -> WorkerRecord:
    record = WorkerRecord(
        worker_id=f"worker-{number:04}",
        incarnation="i",
        address=f"127.1.{number // 250}.{number % 250 + 1}:{port}",
        slots=8,
        state=WORKER_STATE_READY,
        labels={"news": str(news)},
    )
    capabilities = (pb.CAPABILITY_CHAT, pb.CAPABILITY_RESUME)
    record.models.append(ServedModel(name="m", fingerprint="f", capabilities=capabilities))
    return record


@dataclass
class Window:
    """What happened in some seconds."""

    name: str
    cpu: float
    memory: float
    events: int
    failed: int
    times: list[float]

    def row(self) -> list[str]:
        """For the table."""
        times = sorted(self.times)
        p50, p99 = times[len(times) // 2] * 1e3, times[len(times) * 99 // 100] * 1e3
        counts = [str(self.events), str(len(times)), str(self.failed)]
        return [self.name, *counts, f"{100 * self.cpu:.0f}", f"{self.memory:.0f}", f"{p50:.1f}", f"{p99:.1f}"]


class Bench:
    """The gateway under test, the registry in it, and a client that asks on and on."""

    def __init__(self, gateway: Process, etcd: EtcdClient, http: httpx.AsyncClient, fleet: Fleet, port: int) -> None:
        self._gateway = gateway
        self._etcd = etcd
        self._http = http
        self._fleet = fleet
        self._port = port

    async def register(self, count: int) -> None:
        """Let so many workers appear, and wait for their sessions."""
        for number in range(count):
            await self._put(_record(number, self._port))
        async with asyncio.timeout(120):
            while self._fleet.sessions < count:
                await asyncio.sleep(0.1)

    async def window(self, name: str, seconds: float, workers: int, events_per_minute: int) -> Window:
        """Ask one request after the other, while that much news arrives."""
        end = time.monotonic() + seconds
        cpu, news = self._gateway.cpu(), asyncio.create_task(self._news(end, workers, events_per_minute))
        times: list[float] = []
        failed = 0
        while time.monotonic() < end:
            began = time.monotonic()
            message = {"role": "user", "content": f"question {len(times)}"}
            answer = await self._http.post("/v1/chat/completions", json={"model": "m", "messages": [message]})
            failed += answer.status_code != 200
            times.append(time.monotonic() - began)
            await asyncio.sleep(0.02)
        used = (self._gateway.cpu() - cpu) / seconds
        return Window(name, used, self._gateway.memory(), await news, failed, times)

    async def _news(self, end: float, workers: int, events_per_minute: int) -> int:
        if not events_per_minute:
            return 0
        made, due = 0, time.monotonic()
        while due < end:
            await self._put(_record(made % workers, self._port, made + 1))
            made += 1
            due += 60 / events_per_minute
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        return made

    async def _put(self, record: WorkerRecord) -> None:
        await self._etcd.put(key_for(record.worker_id).encode(), encode(record))


async def run(workers: int, seconds: float, events_per_minute: int) -> str:
    """The table."""
    fleet, server = Fleet(), grpc.aio.server(options=wire.SERVER_OPTIONS)
    pb_grpc.add_InferenceServiceServicer_to_server(fleet, server)
    port, http_port, registry_port = wire.bind(server, "0.0.0.0", 0), free_port(), free_port()
    await server.start()
    argv = python("gateway", "--port", str(http_port), "--registry-port", str(registry_port))
    with tempfile.TemporaryDirectory() as folder, Process("gateway", argv, Path(folder)) as gateway:
        await asyncio.to_thread(gateway.wait_logged, "gateway listening")
        url = f"http://127.0.0.1:{http_port}"
        options = EtcdOptions.from_url(f"127.0.0.1:{registry_port}")
        async with EtcdClient(options) as etcd, httpx.AsyncClient(base_url=url, timeout=60) as http:
            bench = Bench(gateway, etcd, http, fleet, port)
            await bench.register(10)
            windows = [await bench.window("10 workers", seconds, 10, 0)]
            await bench.register(workers)
            windows.append(await bench.window(f"{workers} workers", seconds, workers, 0))
            windows.append(await bench.window(f"{workers} workers, news", seconds, workers, events_per_minute))
    await server.stop(None)
    header = ["with", "events", "requests", "failed", "gateway CPU %", "RSS MiB", "request p50 ms", "p99 ms"]
    return markdown(header, [window.row() for window in windows])


def main(argv: Sequence[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load.fleet", description=__doc__, allow_abbrev=False)
    parser.add_argument("--workers", type=int, default=1000, help="workers in the registry (1000)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each window (20)")
    parser.add_argument("--events", type=int, default=10_000, help="registry events a minute (10000)")
    options = parser.parse_args(argv)
    print(asyncio.run(run(options.workers, options.seconds, options.events)))


if __name__ == "__main__":
    main()
