"""The command itself: how it starts, refuses to start, and ends."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import httpx
import psutil
import pytest

from mesh.registry import EtcdClient, EtcdOptions, encode, key_for
from tests.component.gateway_fixture import body
from tests.component.gateway_worker import FakeWorker
from tests.harness import Gateway, Process, eventually, free_port


async def register(gateway: Gateway, worker: FakeWorker) -> None:
    """Write a worker into the gateway's own registry, and wait until it is used."""
    async with EtcdClient(EtcdOptions.from_url(gateway.etcd)) as etcd:
        await etcd.put(key_for(worker.worker_id).encode(), encode(worker.record()))
    await eventually(lambda: gateway.get("/readyz").status_code == 200)


async def test_it_serves_workers_of_its_own_registry_and_ends_in_order(tmp_path: Path) -> None:
    with Gateway(tmp_path, "gateway") as gateway:
        gateway.wait_ready()
        async with FakeWorker("w", pause=0.02) as worker, httpx.AsyncClient(base_url=gateway.url) as http:
            await register(gateway, worker)
            async with http.stream("POST", "/v1/chat/completions", json=body(stream=True, max_tokens=30)) as response:
                lines = response.aiter_lines()
                assert (await anext(lines)).startswith("data: {")
                gateway.terminate()
                assert [line async for line in lines if line][-1] == "data: [DONE]"
            assert await asyncio.to_thread(gateway.wait_exit) == 0
    [line] = [record for record in gateway.records() if record["message"] == "request" and record["status"] == 200]
    assert (line["model"], line["completion_tokens"], line["attempts"]) == ("m", 30, 1)
    assert "Traceback" not in gateway.output


def test_it_is_small(tmp_path: Path) -> None:
    with Gateway(tmp_path, "gateway") as gateway:
        gateway.wait_ready()
        assert psutil.Process(gateway.pid).memory_info().rss < 100e6


def test_two_interrupts_end_it_although_a_request_waits(tmp_path: Path) -> None:
    with Gateway(tmp_path, "gateway") as gateway, socket.socket() as client:
        gateway.wait_ready()
        client.connect(("127.0.0.1", int(gateway.url.rpartition(":")[2])))
        data = httpx.Request("POST", gateway.url, json=body()).content
        head = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n" + head.encode() + data)
        gateway.wait(lambda: gateway.metric("mesh_gateway_queue_requests") == 1)
        gateway.interrupt()
        gateway.wait(lambda: not gateway._answers("/healthz"))  # pyright: ignore[reportPrivateUsage]
        gateway.interrupt()
        assert gateway.wait_exit() == 0
        assert b" 503 " in client.recv(4096)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--prot", "1"], "unknown argument '--prot'; did you mean --port?"),
        (["--port", "70000"], "--port must be between 0 and 65535, not 70000"),
        (["--etcd", "ftp://x"], "'etcd' must be http://host:port"),
        (["--etcd", "http://127.0.0.1:1"], "no etcd answers at 127.0.0.1:1"),
        (["--worker-ca", "/nowhere.pem"], "cannot read /nowhere.pem"),
    ],
)
def test_what_it_cannot_do_is_one_sentence(tmp_path: Path, args: list[str], sentence: str) -> None:
    given = ["-m", "gateway", "--port", "0", "--registry-port", "0", *args]
    with Process(tmp_path, "gateway", given) as gateway:
        assert gateway.wait_exit(20) == 2
        [said] = [line for line in gateway.output.splitlines() if not line.startswith("{")]
    assert said.startswith("mesh-gateway: ")
    assert sentence in said


@pytest.mark.parametrize("flag", ["--port", "--registry-port"])
def test_a_taken_port_is_one_sentence(tmp_path: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ports = {"--port": str(free_port()), "--registry-port": str(free_port()), flag: port}
        given = ["-m", "gateway", *(part for pair in ports.items() for part in pair)]
        with Process(tmp_path, "gateway", given) as gateway:
            assert gateway.wait_exit(20) == 2
            [said] = [line for line in gateway.output.splitlines() if not line.startswith("{")]
    assert said.startswith("mesh-gateway: cannot listen on 127.0.0.1:" + port)
