"""Several gateway processes behind one port: every one serves, one that dies comes back, and they end together."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx

from gateway.processes import merge
from tests.harness import Gateway, Worker, read_metric, wait_until


def children(gateway: Gateway) -> set[int]:
    return set(map(int, Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text().split()))


def listening(gateway: Gateway) -> int:
    return sum(record.get("message") == "gateway listening" for record in gateway.records())


def test_processes_share_a_port_and_a_registry_and_outlive_each_other(tmp_path: Path) -> None:
    with Gateway(tmp_path, "gateway", "--processes", "2", "--drain-timeout", "2") as gateway:
        gateway.wait_ready()
        gateway.wait(lambda: listening(gateway) == 2)
        first = children(gateway)
        assert len(first) == 3  # two gateways and the registry
        with Worker(tmp_path, "w", "--engine", "scripted", etcd=gateway.etcd) as worker:
            worker.wait_ready()
            # Each process counts its own session with the worker.
            gateway.wait(lambda: gateway.metric("mesh_gateway_workers", state="ready") == 2)
            body = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}

            def ask() -> int:
                return httpx.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=20).status_code

            assert [ask() for _ in range(24)] == [200] * 24  # a connection each
            page = gateway.get("/metrics").text
            served = [read_metric(page, "mesh_gateway_attempts_total", process=str(index)) for index in range(2)]
            assert sum(served) == 24
            assert min(served) > 0
            for pid in first:  # the registry, too
                os.kill(pid, signal.SIGKILL)
            gateway.wait(lambda: len(children(gateway) - first) == 3)
            gateway.wait(lambda: gateway.metric("mesh_gateway_workers", state="ready") == 2)
            assert [ask() for _ in range(8)] == [200] * 8
            gateway.terminate()
            assert gateway.wait_exit(20) == 0
    assert gateway.output.count('"gateway stopped"') == 2


def test_they_end_with_the_one_that_keeps_them(tmp_path: Path) -> None:
    with Gateway(tmp_path, "gateway", "--processes", "2") as gateway:
        gateway.wait_ready()
        gateway.wait(lambda: listening(gateway) == 2)
        orphans = children(gateway)
        gateway.kill()
        wait_until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in orphans), 10)


def test_settings_that_cannot_be_used_end_them_all_with_one_sentence(tmp_path: Path) -> None:
    with Gateway(tmp_path, "one") as one:
        one.wait_ready()
        port = one.url.rpartition(":")[2]
        with Gateway(tmp_path, "two", "--processes", "2", "--port", port) as two:
            assert two.wait_exit() == 2
            assert f"cannot listen on 127.0.0.1:{port}" in two.output
    with Gateway(tmp_path, "three", "--processes", "2", etcd="127.0.0.1:1") as three:
        assert three.wait_exit() == 2
        assert "no etcd answers at 127.0.0.1:1" in three.output


def test_pages_of_metrics_become_one() -> None:
    first = b'# HELP a_total Of a.\n# TYPE a_total counter\na_total 1.0\na_total{x="y"} 2.0\n'
    page = first + b"# HELP b Of b.\n# TYPE b gauge\nb 3.0\n"
    merged = merge({1: page, 0: page, 2: b""}).decode()
    assert merged.count("# HELP a_total") == merged.count("# TYPE b gauge") == 1
    assert read_metric(merged, "a_total", process="0") == 3
    assert read_metric(merged, "a_total", process="1", x="y") == 2
    assert read_metric(merged, "b") == 6
