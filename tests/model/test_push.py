"""`mesh weights push` to a hub: one of ours, that takes files as the real one does, in the commit or beside it."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from base64 import b64decode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest

from mesh.demo import adapter_path

TOKEN = "hf_of_a_test"
ADAPTER = adapter_path()


class Hub(ThreadingHTTPServer):
    """Keeps what it is given: `stored` by hash, `committed` by name, and the message of the commit."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.stored: dict[str, bytes] = {}
        self.committed: dict[str, bytes] = {}
        self.message = ""
        self.created: dict[str, Any] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    @property
    def hub(self) -> Hub:
        return cast("Hub", self.server)

    def do_PUT(self) -> None:
        body = self._body()
        assert self.path == f"/store/{hashlib.sha256(body).hexdigest()}"
        self.hub.stored[self.path.removeprefix("/store/")] = body
        self._say(200, {})

    def do_POST(self) -> None:
        body = self._body()
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            self._say(401, {"error": "Invalid username or password."})
            return
        match self.path:
            case "/api/repos/create":
                self.hub.created = json.loads(body)
                self._say(200, {"url": f"{self.hub.url}/me/mine"})
            case "/api/models/me/mine/preupload/main":
                names = [file["path"] for file in json.loads(body)["files"]]
                modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
                self._say(
                    200,
                    {
                        "files": [
                            {"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()
                        ]
                    },
                )
            case "/me/mine.git/info/lfs/objects/batch":
                self._say(
                    200, {"transfer": "basic", "objects": [self._place(one) for one in json.loads(body)["objects"]]}
                )
            case "/api/models/me/mine/commit/main":
                self._commit(body)
                self._say(200, {"commitUrl": f"{self.hub.url}/me/mine/commit/1", "commitOid": "1"})
            case _:
                self._say(404, {"error": f"nobody asked the hub so far for {self.path}"})

    def _place(self, one: dict[str, Any]) -> dict[str, Any]:
        return {**one, "actions": {"upload": {"href": f"{self.hub.url}/store/{one['oid']}"}}}

    def _commit(self, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            match line["key"]:
                case "header":
                    self.hub.message = value["summary"]
                case "file":
                    self.hub.committed[value["path"]] = b64decode(value["content"])
                case kind:
                    assert kind == "lfsFile"
                    self.hub.committed[value["path"]] = self.hub.stored[value["oid"]]

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _say(self, code: int, content: dict[str, Any]) -> None:
        said = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def push(endpoint: str, home: Path, token: str, *words: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    env["HF_HUB_DISABLE_XET"] = "1"  # a protocol of its own, which is the library's to speak
    env |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_TOKEN": token}
    command = [sys.executable, "-m", "training.weights", "push", "--model", str(ADAPTER), "--repo", "me/mine", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_an_adapter_arrives_whole(hub: Hub, tmp_path: Path) -> None:
    done = push(hub.url, tmp_path, TOKEN, "--private", "--message", "The sailor")
    assert done.returncode == 0, done.stderr
    assert hub.committed == {file.name: file.read_bytes() for file in ADAPTER.iterdir()}
    assert (hub.message, hub.created["visibility"]) == ("The sailor", "private")
    assert done.stdout.splitlines()[-1].endswith(f"bytes went to {hub.url}/me/mine/commit/1")


@pytest.mark.parametrize("token", ["", "hf_of_nobody"])
def test_who_is_unknown_is_told_what_to_do(hub: Hub, tmp_path: Path, token: str) -> None:
    done = push(hub.url, tmp_path, token)
    assert done.returncode == 2
    told = "the hub must know who you are: set HF_TOKEN, or run `hf auth login`"
    assert done.stderr.splitlines()[-1] == f"mesh weights push: {told}"


def test_a_hub_that_is_not_there(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        done = push(endpoint, tmp_path, TOKEN)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"mesh weights push: the hub at {endpoint} cannot be reached: ")
