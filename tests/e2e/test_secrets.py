"""With secrets in every place that takes one, none is in any log, on any error page or in the registry."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path

import httpx

from mesh.cli.ctl import main as ctl
from mesh.keys import new_key
from tests.harness import MODEL, ROOT, Gateway, Worker, wait_until

TOKEN, PASSWORD = secrets.token_hex(16), secrets.token_hex(16)


def test_no_secret_is_ever_shown(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    made = subprocess.run(
        [sys.executable, "-m", "mesh.cli", "ctl", "keys", "create", "--name", "a", "--json", "--keys-file", str(keys)],
        capture_output=True,
        cwd=ROOT,
        check=True,
    )
    key = str(json.loads(made.stdout)["key"])
    stranger = new_key("b")[1]
    both = {"MESH_LOG_LEVEL": "DEBUG"}
    gateway_env = {**both, "MESH_GATEWAY_JOIN_TOKEN": TOKEN, "MESH_GATEWAY_KEYS_FILE": str(keys)}
    worker_env = {**both, "MESH_WORKER_JOIN_TOKEN": TOKEN}
    with Gateway(tmp_path, "gateway", env=gateway_env) as gateway:
        gateway.wait_ready()
        user = ("--etcd-user", "worker", "--etcd-password", PASSWORD)
        with Worker(tmp_path, "w1", "--engine", "scripted", *user, etcd=gateway.etcd, env=worker_env) as worker:
            worker.wait_ready()
            headers = {"authorization": f"Bearer {key}"}
            wait_until(lambda: gateway.get("/readyz").status_code == 200, within=15)
            body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
            with httpx.Client(base_url=gateway.url, headers=headers, timeout=20) as client:
                assert client.post("/v1/chat/completions", json=body).status_code == 200
                shown = client.post("/v1/chat/completions", json={**body, "nonsense": 1}).text
                shown += client.get("/v1/models", headers={"x-api-key": stranger, "authorization": ""}).text
            ctl(["stats", "w1", "--etcd", gateway.etcd, "--join-token", TOKEN])
            worker.terminate()
            worker.wait_exit()
            gateway.terminate()
            gateway.wait_exit()
            output = gateway.output + worker.output
    assert '"message": "request"' in output
    assert '"tenant"' in output
    kept = keys.read_text() + (tmp_path / "keys.json.usage").read_text()
    for each in (key.split("-", 3)[3], stranger.split("-", 3)[3], TOKEN, PASSWORD):
        assert len(each) >= 32
        assert each not in shown + output + kept
    [usage] = json.loads((tmp_path / "keys.json.usage").read_text()).values()
    assert usage["tokens"] > 0
