"""Our clients in all languages against one mesh, by the same file of requests and events: clients/conformance.json.

Each prints what it sees, and is judged here. In the last case the worker is killed or frozen in mid-answer: tokens,
text and log probabilities must be those of an undisturbed answer. `make test-clients` builds the clients that need a
compiler; those that are not built are skipped.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf import json_format

from mesh import wire
from mesh.cli.workers import list_workers
from mesh.registry import WORKERS_PREFIX, EmbeddedRegistry, EtcdClient, EtcdOptions, encode, prefix_end
from mesh.registry.records import key_for
from mesh.v1 import inference_pb2 as pb
from mesh.v1 import inference_pb2_grpc as pb_grpc
from mesh.v1.registry_pb2 import WORKER_STATE_READY, ServedModel, WorkerRecord
from tests.harness import ROOT, Mesh, Worker, wait_until

FOLDER = ROOT / "clients"
FILE = FOLDER / "conformance.json"
CONFORMANCE: dict[str, Any] = json.loads(FILE.read_text())
CASES: dict[str, Any] = {case["name"]: case for case in CONFORMANCE["cases"]}
CALM = [name for name, case in CASES.items() if "fault_after" not in case]
(FAULT,) = [name for name, case in CASES.items() if "fault_after" in case]
COMMANDS = {
    "python": (sys.executable, FOLDER / "python/conformance.py"),
    "node": ("node", FOLDER / "node/dist/src/conformance.js"),  # built by make e2e too
    "go": (FOLDER / "go/bin/conformance",),
    "cpp": (FOLDER / "cpp/build/conformance",),
}
TRANSPORTS = ("session", "generate")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with Mesh(tmp_path_factory.mktemp("mesh"), workers=2, worker_args=CONFORMANCE["worker"]) as mesh:
        asyncio.run(_litter(mesh.gateway.etcd))
        yield mesh


async def _litter(etcd: str) -> None:
    """Values where workers are noted that are none: no client minds."""
    async with EtcdClient(EtcdOptions.from_url(etcd)) as client:
        for number, value in enumerate((b"{", b"null", b"[]", b"7", b"\xff")):
            await client.put(f"/mesh/v1/workers/{number}".encode(), value)


@pytest.fixture(params=COMMANDS)
def command(request: pytest.FixtureRequest) -> list[str]:
    words = COMMANDS[request.param]
    if not Path(words[-1]).exists():
        pytest.skip(f"the {request.param} client is not built: make test-clients")
    return [str(word) for word in words]


class Client:
    """A conformance program at work."""

    def __init__(self, command: list[str], mesh: Mesh, transport: str, *cases: str) -> None:
        words = [*command, str(FILE), mesh.gateway.etcd, transport, *cases]
        self._process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The lines as they come; fails if the program does."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        with self._process as process:
            for line in self._process.stdout:
                yield json.loads(line)
            complaint = self._process.stderr.read()
            assert process.wait(10) == 0, complaint
            assert not complaint.replace("skipped a key of the registry\n", "")


class Seen:
    """What a client says that it saw of a case."""

    def __init__(self) -> None:
        self.end: dict[str, Any] = {}
        self.started: list[pb.Started] = []
        self.finished: list[pb.Finished] = []
        self.choices: dict[int, dict[str, Any]] = {}
        self.tokens = 0

    def take(self, line: dict[str, Any]) -> None:
        """One more line; order and positions are checked."""
        assert not self.end, "something follows the end"
        if "end" in line:
            self.end = {key: line[key] for key in line.keys() - {"case", "message"}}
            return
        assert not self.finished
        event = json_format.ParseDict(line["event"], pb.GenerateResponse())
        match event.WhichOneof("event"):
            case "started":
                assert not self.started
                self.started.append(event.started)
            case "delta":
                assert self.started
                self._delta(event.delta)
            case "choice_finished":
                ended = event.choice_finished
                assert ended.tokens == len(self._choice(ended.choice)["token_ids"])
                self._choice(ended.choice)["reason"] = pb.FinishReason.Name(ended.reason)
                self._choice(ended.choice)["stop_string"] = ended.stop_string
            case _:
                self.finished.append(event.finished)

    def _choice(self, index: int) -> dict[str, Any]:
        return self.choices.setdefault(index, {"token_ids": [], "text": "", "logprobs": []})

    def _delta(self, delta: pb.Delta) -> None:
        choice = self._choice(delta.choice)
        assert "reason" not in choice
        assert delta.position == len(choice["token_ids"])
        choice["token_ids"] += delta.token_ids
        choice["text"] += delta.text
        choice["logprobs"] += [[each.token_id, *(top.token_id for top in each.top)] for each in delta.logprobs]
        self.tokens += len(delta.token_ids)

    def summary(self) -> dict[str, Any]:
        """What conformance.json may expect."""
        if self.end["end"] != "finished":
            return self.end
        (finished,) = self.finished
        usage = json_format.MessageToDict(finished.usage, preserving_proto_field_name=True)
        usage.pop("cached_tokens", None)
        found = [{key: value for key, value in choice.items() if value} for _, choice in sorted(self.choices.items())]
        return {"end": "finished", "choices": found, "usage": usage}


def alive(mesh: Mesh) -> list[Worker]:
    """The workers that were not killed."""
    return [worker for worker in mesh.workers if worker.popen.poll() is None]


def cancelled(mesh: Mesh) -> int:
    """Streams that clients have cancelled, by the workers' own count."""
    return sum(worker.stats().streams_cancelled for worker in alive(mesh))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_each_case_is_as_expected(mesh: Mesh, command: list[str], transport: str) -> None:
    seen = {name: Seen() for name in CALM}
    before = cancelled(mesh)
    for line in Client(command, mesh, transport, *CALM):
        seen[line["case"]].take(line)
    for name, one in seen.items():
        assert one.summary() == CASES[name]["expect"], name
        assert one.tokens >= CASES[name].get("cancel_after", 0)
    cuts = sum("cancel_after" in CASES[name] for name in CALM)
    wait_until(lambda: cancelled(mesh) == before + cuts)
    wait_until(lambda: not any(worker.stats().live_streams for worker in alive(mesh)))


@pytest.mark.parametrize(("transport", "fault"), [("session", "killed"), ("generate", "killed"), ("session", "frozen")])
def test_an_answer_survives_its_worker(mesh: Mesh, command: list[str], transport: str, fault: str) -> None:
    seen, at, struck = Seen(), 0, None
    mesh.start_worker().wait_ready()
    for line in Client(command, mesh, transport, FAULT):
        seen.take(line)
        if struck is None and seen.tokens >= CASES[FAULT]["fault_after"]:
            at, struck = seen.tokens, next(worker for worker in alive(mesh) if worker.stats().live_streams)
            strike = struck.kill if fault == "killed" else struck.freeze
            strike()
    assert struck is not None
    struck.kill()
    assert seen.summary() == CASES[FAULT]["expect"]
    assert at < seen.tokens, "the fault came too late"
    assert sum(worker.stats().streams_finished for worker in alive(mesh)) >= 1


@asynccontextmanager
async def registry_with(records: Iterable[WorkerRecord]) -> AsyncGenerator[EtcdClient]:
    """A registry in this process, with these workers in it for as long as nobody takes them out."""
    registry = EmbeddedRegistry()
    address = f"127.0.0.1:{await registry.start('127.0.0.1', 0)}"
    try:
        async with EtcdClient(EtcdOptions.from_url(address)) as etcd:
            for record in records:
                await etcd.put(key_for(record.worker_id).encode(), encode(record))
            yield etcd
    finally:
        await registry.stop()


async def lines_of(command: list[str], file: Path, etcd: EtcdClient, *words: str) -> AsyncGenerator[dict[str, Any]]:
    """What a conformance program prints."""
    argv = [*command, str(file), etcd.options.where, *words]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        async for line in process.stdout:
            yield json.loads(line)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()


async def test_a_registry_that_came_back_empty_has_not_lost_the_workers(
    mesh: Mesh, command: list[str], tmp_path: Path
) -> None:
    # Longer than a listing counts for, so that the client asks again when its worker is lost.
    request = {"model": "scripted", "text": "Hello", "sampling": {"max_tokens": 180, "ignore_eos": True}}
    file = tmp_path / "cases.json"
    file.write_text(json.dumps({"cases": [{"name": "long", "request": request}]}))
    names = {mesh.start_worker().wait_ready().name for _ in range(2)}
    all_listed = partial(_listed, EtcdOptions.from_url(mesh.gateway.etcd), names)
    records = await asyncio.to_thread(wait_until, all_listed)
    seen, struck = Seen(), None
    async with registry_with(records) as etcd:
        async for line in lines_of(command, file, etcd, "session", "long"):
            seen.take(line)
            if struck is None and seen.tokens >= 130:
                await etcd.delete_range(WORKERS_PREFIX.encode(), prefix_end(WORKERS_PREFIX.encode()))
                struck = next(worker for worker in alive(mesh) if worker.stats().live_streams)
                struck.kill()
    assert struck is not None
    assert seen.end == {"end": "finished"}
    assert seen.tokens == 180


def _listed(options: EtcdOptions, names: set[str]) -> list[WorkerRecord]:
    """The workers of these names, once all are listed."""
    found = [record for record in asyncio.run(list_workers(options)) if record.worker_id in names]
    return found if len(found) == len(names) else []


class StandingWorker(pb_grpc.InferenceServiceServicer):
    """Its engine stands still, and it does not notice."""

    async def Session(self, request_iterator: Any, context: Any) -> AsyncGenerator[pb.SessionResponse]:
        yield pb.SessionResponse(opened=pb.SessionOpened(worker_id="standing", incarnation="1", heartbeat=2))
        while True:
            await asyncio.sleep(0.1)
            yield pb.SessionResponse(load=pb.WorkerLoad(running=1))

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncGenerator[pb.GenerateResponse]:
        await asyncio.Event().wait()
        yield pb.GenerateResponse()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_deadline_holds_where_the_worker_stands_still(command: list[str], transport: str) -> None:
    server = grpc.aio.server(options=wire.SERVER_OPTIONS)
    pb_grpc.add_InferenceServiceServicer_to_server(StandingWorker(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    record = WorkerRecord(
        worker_id="standing",
        incarnation="1",
        address=f"127.0.0.1:{port}",
        models=[ServedModel(name="scripted", fingerprint="f", capabilities=[pb.CAPABILITY_RESUME])],
        slots=1,
        state=WORKER_STATE_READY,
    )
    seen, name = Seen(), "a deadline that passes"
    try:
        async with registry_with([record]) as etcd:
            async for line in lines_of(command, FILE, etcd, transport, name):
                seen.take(line)
    finally:
        await server.stop(None)
    assert seen.end["code"] == "deadline_exceeded"
