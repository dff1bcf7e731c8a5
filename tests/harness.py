"""The test harness: real processes, real sockets, polling instead of sleeping.

    with Mesh(tmp_path, workers=2) as mesh:
        client = mesh.openai()
        ...
        mesh.workers[0].kill()
        wait_until(lambda: mesh.workers[1].stats().live_streams == 0, within=5)

In asynchronous tests `await eventually(check)` polls without blocking the loop.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import grpc
import httpx
import openai

from benchmarks.processes import free_port as free_port
from mesh.cli.child import command
from mesh.registry.client import EtcdClient, prefix_end
from mesh.registry.options import EtcdOptions
from mesh.registry.records import WORKERS_PREFIX, decode
from mesh.v1 import admin_pb2, admin_pb2_grpc, registry_pb2

ROOT = Path(__file__).resolve().parent.parent
T = TypeVar("T")

_PAUSE = 0.02
# Starting Python with everything that a worker imports takes seconds on a busy machine.
START_LIMIT = 30.0
# How long to wait for what takes a moment at most, unless the time is what a test is about: a machine that does other
# things as well may not run a process for seconds.
MOMENT = 15.0
MODEL = "scripted"


async def eventually(check: Callable[[], T | Awaitable[T]], within: float = MOMENT) -> T:
    """Poll until `check` (plain or async) returns something true, and return that.

    An AssertionError of the check counts as "not yet". After `within` seconds it fails with the last answer.
    """
    deadline = time.monotonic() + within
    while True:
        last: object
        try:
            result = check()
            value = cast("T", await result if inspect.isawaitable(result) else result)
            if value:
                return value
            last = value
        except AssertionError as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s; the last answer was {last!r}")
        await asyncio.sleep(_PAUSE)


def wait_until(check: Callable[[], T], within: float = MOMENT) -> T:
    """`eventually` for tests without an event loop."""
    deadline = time.monotonic() + within
    while True:
        last: object
        try:
            last = value = check()
            if value:
                return value
        except AssertionError as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s; the last answer was {last!r}")
        time.sleep(_PAUSE)


class Process:
    """A command of ours as a person runs it, with its output in a file. `with` it, or call `close`.

    `argv` follows the Python interpreter: `["-m", "mesh.worker", ...]`. Failures show the end of the output. It dies
    with the test process, however that ends.
    """

    def __init__(self, folder: Path, name: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> None:
        assert argv[0] == "-m", f"a module is run, not {argv[0]}"
        self.name = name
        self.log = folder / f"{name}.log"
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("MESH_")}
        with self.log.open("wb") as output:
            self.popen = subprocess.Popen(
                command(*argv[1:]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**inherited, "MESH_LOG": "json", "PYTHONUNBUFFERED": "1", **(env or {})},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(f"--- {self.name} ---\n{self.tail()}")
        self.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self.popen.pid

    @property
    def output(self) -> str:
        """All that it has written."""
        return self.log.read_text(errors="replace")

    def tail(self, lines: int = 40) -> str:
        """The end of its output."""
        return "\n".join(self.output.splitlines()[-lines:])

    def records(self) -> list[dict[str, Any]]:
        """Its log lines so far, as objects; other lines of output are left out."""
        found: list[dict[str, Any]] = []
        for line in self.output.splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                found.append(cast("dict[str, Any]", record))
        return found

    def wait_for_record(self, message: str, within: float = START_LIMIT) -> dict[str, Any]:
        """The first log line with that message; fails at once if the process ends without it."""
        return self.wait(lambda: next((r for r in self.records() if r.get("message") == message), None), within)

    def wait(self, check: Callable[[], T | None], within: float = START_LIMIT) -> T:
        """Poll until `check` holds; fails at once if the process ends before."""
        deadline = time.monotonic() + within
        while True:
            ended = self.popen.poll()
            result = check()
            if result:
                return result
            if ended is not None:
                raise AssertionError(f"{self.name} ended with {ended}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name}: not within {within:g} s:\n{self.tail()}")
            time.sleep(_PAUSE)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.popen.kill()
        self.popen.wait(10)

    def freeze(self) -> None:
        """SIGSTOP."""
        self.popen.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.popen.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM; does not wait."""
        self.popen.terminate()

    def interrupt(self) -> None:
        """SIGINT; does not wait."""
        self.popen.send_signal(signal.SIGINT)

    def wait_exit(self, within: float = MOMENT) -> int:
        """Wait for the end; returns the exit code."""
        try:
            return self.popen.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {within:g} s:\n{self.tail()}") from None

    def close(self) -> None:
        """Make sure that it is gone; a frozen one too."""
        if self.popen.poll() is None:
            self.kill()


class Worker(Process):
    """`mesh-worker` on a free port. `address` is known once `wait_ready` has returned."""

    def __init__(
        self, folder: Path, name: str, *args: str, etcd: str | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        registry = ["--etcd", etcd, "--ttl", "5"] if etcd else ["--no-register"]
        given = ["-m", "mesh.worker", "--port", "0", "--worker-id", name, *registry, *args]
        super().__init__(folder, name, given, env=env)
        self.address = ""

    def wait_ready(self, within: float = START_LIMIT) -> Self:
        """Wait until it serves."""
        self.address = str(self.wait_for_record("worker is ready", within)["address"])
        return self

    def stats(self) -> admin_pb2.GetStatsResponse:
        """Its own counters, asked now."""
        return self._admin("GetStats", admin_pb2.GetStatsRequest())

    def drain(self, *, stop: bool = False) -> admin_pb2.DrainResponse:
        """Ask it to drain."""
        return self._admin("Drain", admin_pb2.DrainRequest(stop=stop))

    def _admin(self, method: str, request: Any) -> Any:
        with grpc.insecure_channel(self.address) as channel:
            stub = cast("Any", admin_pb2_grpc.AdminServiceStub)(channel)
            return getattr(stub, method)(request, timeout=5, wait_for_ready=True)


class Gateway(Process):
    """`mesh-gateway` on free ports; it serves the registry unless it is given `etcd`.

    `url` and `etcd` are known once `wait_ready` has returned.
    """

    def __init__(
        self, folder: Path, name: str, *args: str, etcd: str | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.url = self.etcd = ""
        registry = ["--etcd", etcd] if etcd else ["--registry-port", "0"]
        kept = ["--store", str(folder / f"{name}.db")]  # and not in the user's own
        super().__init__(folder, name, ["-m", "gateway", "--port", "0", *registry, *kept, *args], env=env)

    def wait_ready(self, within: float = START_LIMIT) -> Self:
        """Wait until it answers."""
        record = self.wait_for_record("gateway listening", within)
        self.url, self.etcd = str(record["url"]), str(record["registry"])
        self.wait(lambda: self._answers("/healthz"), within)
        return self

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """One GET."""
        return httpx.get(self.url + path, headers=headers, timeout=10)

    def models(self) -> set[str]:
        """The models that it lists."""
        return {model["id"] for model in self.get("/v1/models").json()["data"]}

    def metric(self, name: str, **labels: str) -> float:
        """The value of one of its metrics, summed over the labels that are not given; 0 if there is none."""
        return read_metric(self.get("/metrics").text, name, **labels)

    def _answers(self, path: str) -> bool:
        try:
            return self.get(path).is_success
        except httpx.TransportError:
            return False


def read_metric(exposition: str, name: str, **labels: str) -> float:
    """Sum of the samples of a metric (counters by their name with `_total`) that carry the labels."""
    from prometheus_client.parser import text_string_to_metric_families

    return sum(
        sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def registered(etcd: str) -> dict[str, registry_pb2.WorkerRecord]:
    """The workers that the registry itself lists now, by id: asked from etcd, not from anybody's cache."""

    async def ask() -> dict[str, registry_pb2.WorkerRecord]:
        prefix = WORKERS_PREFIX.encode()
        async with EtcdClient(EtcdOptions.from_url(etcd)) as client:
            records = [decode(item.value) for item in (await client.range(prefix, prefix_end(prefix))).kvs]
        return {record.worker_id: record for record in records}

    return asyncio.run(ask())


class Mesh:
    """A gateway, its workers and a registry: embedded in the gateway, or the etcd whose endpoint is given.

    Workers run the scripted engine unless `worker_args` say otherwise. On leaving everything is ended.
    """

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 1,
        worker_args: Sequence[str] = ("--engine", "scripted"),
        gateway_args: Sequence[str] = (),
        etcd: str | None = None,
        model: str = MODEL,
    ) -> None:
        self.folder = folder
        self.model = model
        self.workers: list[Worker] = []
        self.gateway: Gateway
        self._count = workers
        self._worker_args = tuple(worker_args)
        self._gateway_args = tuple(gateway_args)
        self._etcd = etcd
        self._processes: list[Process] = []

    def __enter__(self) -> Self:
        try:
            self.gateway = Gateway(self.folder, "gateway", *self._gateway_args, etcd=self._etcd)
            self._processes.append(self.gateway)
            self.gateway.wait_ready()
            for _ in range(self._count):
                self.start_worker()
            for worker in self.workers:
                worker.wait_ready()
            self.wait_listed(self._count)
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._processes):
            process.__exit__(kind, error, trace)

    def start_worker(self, *args: str, name: str | None = None) -> Worker:
        """Start one more; `args` come after those of all workers. Does not wait."""
        name = name or f"worker-{len(self.workers)}"
        worker = Worker(self.folder, name, *self._worker_args, *args, etcd=self.gateway.etcd)
        self._processes.append(worker)
        self.workers.append(worker)
        return worker

    def add_worker(self, *args: str, name: str | None = None) -> Worker:
        """Start one more and wait until the gateway has it."""
        before = int(self.gateway.metric("mesh_gateway_workers", state="ready"))
        worker = self.start_worker(*args, name=name).wait_ready()
        self.wait_listed(before + 1)
        return worker

    def wait_listed(self, count: int, within: float = MOMENT) -> None:
        """Wait until the gateway counts so many ready workers."""
        wait_until(lambda: self.gateway.metric("mesh_gateway_workers", state="ready") >= count, within)

    def worker(self, name: str) -> Worker:
        """A worker by its id."""
        return next(worker for worker in self.workers if worker.name == name)

    def registered(self) -> dict[str, registry_pb2.WorkerRecord]:
        """The workers that the registry itself lists."""
        return registered(self.gateway.etcd)

    def openai(self, *, timeout: float = 60.0) -> openai.OpenAI:
        """The SDK, without retries of its own. Close it (`with`)."""
        return openai.OpenAI(base_url=f"{self.gateway.url}/v1", api_key="none", max_retries=0, timeout=timeout)

    def async_openai(self, *, timeout: float = 60.0) -> openai.AsyncOpenAI:
        """The asynchronous SDK, without retries of its own. Close it (`async with`)."""
        return openai.AsyncOpenAI(base_url=f"{self.gateway.url}/v1", api_key="none", max_retries=0, timeout=timeout)

    def http(self) -> httpx.Client:
        """A plain HTTP client on the gateway. Close it (`with`)."""
        return httpx.Client(base_url=self.gateway.url, timeout=60)

    def chat(self, text: str, **body: Any) -> dict[str, Any]:
        """A chat request's body."""
        return {"model": self.model, "messages": [{"role": "user", "content": text}], **body}


def sse(response: httpx.Response) -> Iterator[str]:
    """The data of each server-sent event of a streaming response, `[DONE]` included."""
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield line.removeprefix("data: ")


def sse_chunks(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The chunks of a streaming response as objects; fails unless it ends with `[DONE]`."""
    for data in sse(response):
        if data == "[DONE]":
            return
        yield json.loads(data)
    raise AssertionError("the stream ended without [DONE]")


def text_of(chunks: Iterator[dict[str, Any]], choice: int = 0) -> str:
    """The text of one choice of a stream of chat chunks."""
    return "".join(
        item["delta"].get("content") or ""
        for chunk in chunks
        for item in chunk.get("choices", ())
        if item["index"] == choice
    )
