"""The commands as a person types them: what they say when something is wrong, and `mesh up` from banner to Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from mesh.cli.workers import list_workers
from mesh.registry.options import EtcdOptions
from tests.harness import ROOT, Process, free_port, wait_until

WORKER = ("-m", "mesh.worker")
GATEWAY = ("-m", "gateway")
UP = ("-m", "mesh.cli", "up")


def run(*argv: str, given: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, as `python ARGV`."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("MESH_")} | (env or {})
    return subprocess.run(
        [sys.executable, *argv],
        input=given,
        capture_output=True,
        text=True,
        timeout=45,
        cwd=ROOT,
        env=environ,
        check=False,
    )


def refuses(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2 and one clear sentence."""
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr + done.stdout
    sentence = done.stderr.strip().splitlines()[-1]
    assert all(word in sentence for word in words), sentence


@pytest.fixture(scope="module")
def taken() -> Iterator[str]:
    """A port on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield str(sock.getsockname()[1])


@pytest.fixture
def nobody() -> str:
    """A port on which nobody listens."""
    return str(free_port())


class TestBadInput:
    """One sentence on stderr, exit code 2, no traceback."""

    def test_worker_without_a_model(self) -> None:
        refuses(run(*WORKER), "--model-path")

    def test_worker_with_a_typo_in_a_flag(self) -> None:
        refuses(run(*WORKER, "--modle-path", "x"), "--modle-path", "--model-path")

    def test_worker_with_a_typo_in_the_environment(self) -> None:
        refuses(run(*WORKER, env={"MESH_WORKER_PROT": "1"}), "MESH_WORKER_PROT", "MESH_WORKER_PORT")

    def test_worker_with_a_model_path_that_is_not_there(self, tmp_path: Path) -> None:
        path = str(tmp_path / "nowhere")
        refuses(run(*WORKER, "--model-path", path, "--port", "0", "--no-register"), path)

    def test_worker_with_a_folder_that_is_no_model(self, tmp_path: Path) -> None:
        refuses(run(*WORKER, "--model-path", str(tmp_path), "--port", "0", "--no-register"), str(tmp_path))

    def test_worker_with_a_broken_model(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{broken")
        refuses(run(*WORKER, "--model-path", str(tmp_path), "--port", "0", "--no-register"), str(tmp_path))

    def test_worker_with_an_etcd_that_does_not_answer(self, nobody: str) -> None:
        etcd = f"127.0.0.1:{nobody}"
        refuses(run(*WORKER, "--engine", "scripted", "--port", "0", "--etcd", etcd), "etcd", etcd)

    def test_worker_on_a_taken_port(self, taken: str) -> None:
        refuses(run(*WORKER, "--engine", "scripted", "--port", taken, "--no-register"), taken)

    def test_worker_that_nobody_could_reach(self) -> None:
        done = run(*WORKER, "--engine", "scripted", "--port", "0", "--etcd", "etcd.example.com:2379")
        refuses(done, "127.0.0.1", "loopback", "etcd.example.com:2379")

    def test_gateway_on_a_taken_port(self, taken: str) -> None:
        refuses(run(*GATEWAY, "--port", taken, "--registry-port", "0"), taken)

    def test_gateway_whose_registry_port_is_taken(self, taken: str) -> None:
        refuses(run(*GATEWAY, "--port", "0", "--registry-port", taken), taken)

    def test_gateway_with_an_etcd_that_does_not_answer(self, nobody: str) -> None:
        etcd = f"127.0.0.1:{nobody}"
        refuses(run(*GATEWAY, "--port", "0", "--etcd", etcd), "etcd", etcd)

    def test_gateway_with_a_port_out_of_range(self) -> None:
        refuses(run(*GATEWAY, "--port", "99999"), "--port", "65535", "99999")

    def test_mesh_with_an_unknown_command(self) -> None:
        refuses(run("-m", "mesh.cli", "chta"), "chta", "mean chat")

    def test_chat_without_a_gateway(self, nobody: str) -> None:
        refuses(run("-m", "mesh.cli", "chat", "--url", f"http://127.0.0.1:{nobody}", given="Hello\n"), nobody)

    def test_up_on_a_taken_port(self, taken: str) -> None:
        done = run(*UP, "--engine", "scripted", *ports(), "--port", taken)
        assert taken in done.stderr
        refuses(done)

    def test_up_with_an_etcd_that_does_not_answer(self, nobody: str) -> None:
        done = run(*UP, "--engine", "scripted", *ports(), "--etcd", f"127.0.0.1:{nobody}")
        assert f"no etcd answers at 127.0.0.1:{nobody}" in done.stderr
        refuses(done)

    def test_up_with_a_model_path_that_is_not_there(self, tmp_path: Path) -> None:
        path = str(tmp_path / "nowhere")
        done = run(*UP, *ports(), "--model-path", path)
        assert path in done.stderr
        refuses(done)


def ports() -> tuple[str, ...]:
    """Free ones for `mesh up`."""
    return ("--port", str(free_port()), "--registry-port", str(free_port()), "--worker-port", "0")


@pytest.mark.parametrize("name", ["mesh", "mesh-worker", "mesh-gateway"])
def test_the_installed_commands_explain_themselves(name: str) -> None:
    script = Path(sys.executable).parent / name
    done = subprocess.run([str(script), "--help"], capture_output=True, text=True, timeout=45, check=False)
    assert done.returncode == 0, done.stderr
    assert f"usage: {name}" in done.stdout


class Up(Process):
    """A running `mesh up`."""

    def __init__(self, folder: Path, name: str, *args: str, env: dict[str, str] | None = None) -> None:
        given = ports()
        noted = {"MESH_UP_STATE_DIR": str(folder / "state")}  # and not in the user's own folder
        super().__init__(folder, name, [*UP, *given, *args], env={"MESH_LOG": "text", **noted, **(env or {})})
        self.registry = f"127.0.0.1:{given[given.index('--registry-port') + 1]}"
        self.curl = ""
        self.url = ""

    def wait_ready(self) -> None:
        """Wait for the banner; then the curl line and the URL are known."""
        self.curl = self.wait(lambda: curl_line(self.output), within=60)
        found = re.search(r"http://[^/\s]+", self.curl)
        assert found is not None
        self.url = found[0]

    def children(self) -> list[psutil.Process]:
        """Its processes: a gateway and workers."""
        return psutil.Process(self.pid).children(recursive=True)

    def worker(self, name: str) -> psutil.Process:
        """The process of `worker-1`, `worker-2`..."""
        return next(child for child in self.children() if f"-{name}-" in self.worker_id(child))

    @staticmethod
    def worker_id(child: psutil.Process) -> str:
        """Of a worker's process; empty for the gateway's."""
        given = child.cmdline()
        return given[given.index("--worker-id") + 1] if "--worker-id" in given else ""

    def drain(self, name: str) -> None:
        """Have a worker drain and end, with `mesh ctl`."""
        worker = self.worker_id(self.worker(name))
        done = run("-m", "mesh.cli", "ctl", "drain", worker, "--stop", "--etcd", self.registry)
        assert done.returncode == 0, done.stderr

    def listed(self) -> set[str]:
        """Ids of the workers in the registry."""
        return {record.worker_id for record in asyncio.run(list_workers(EtcdOptions.from_url(self.registry)))}


def curl_line(output: str) -> str | None:
    """The curl command in the banner, with its continuation lines; None while it is not printed to its end."""
    found = re.search(r"(?:^|\s)(curl (?:.*\\\n)*.*)\n", output)
    return found[1] if found else None


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """`mesh up` without arguments but for its ports: it serves the demonstration model."""
    with Up(tmp_path_factory.mktemp("up"), "demo") as up:
        up.wait_ready()
        yield up


def test_the_printed_curl_line_streams_an_answer(demo: Up) -> None:
    done = subprocess.run(["bash", "-c", demo.curl], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("data: ") > 5, done.stdout
    assert done.stdout.rstrip().endswith("data: [DONE]")


def test_the_openai_sdk_streams_and_does_not(demo: Up) -> None:
    with openai.OpenAI(base_url=f"{demo.url}/v1", api_key="none", max_retries=0) as client:
        model = client.models.list().data[0].id
        create = functools.partial(
            client.chat.completions.create,
            model=model,
            messages=[{"role": "user", "content": "Hello!"}],
            seed=3,
            max_tokens=40,
        )
        whole = create(stream=False).choices[0].message.content
        pieces = [chunk.choices[0].delta.content or "" for chunk in create(stream=True) if chunk.choices]
    assert whole
    assert len(pieces) > 3
    assert "".join(pieces) == whole


def test_chat_answers_what_is_piped_into_it(demo: Up) -> None:
    done = run("-m", "mesh.cli", "chat", "--url", demo.url, given="Hello!\nWho are you?\n")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 4


def test_ctrl_c_ends_everything(tmp_path: Path) -> None:
    with Up(tmp_path, "up", "--engine", "scripted", "--workers", "2") as up:
        up.wait_ready()
        children = up.children()
        assert len(children) == 3
        up.interrupt()
        assert up.wait_exit(within=10) == 0, up.tail()
        assert not [child for child in children if child.is_running()]
        assert "Traceback" not in up.output


def test_nobody_reads_what_it_says_and_then_its_terminal_is_closed(tmp_path: Path) -> None:
    given = ports()
    url, state = f"http://127.0.0.1:{given[given.index('--port') + 1]}", {"MESH_UP_STATE_DIR": str(tmp_path)}
    argv = [sys.executable, *UP, *given, "--engine", "scripted"]
    # Where these tests run under nohup it is ignored, and a child inherits that.
    ours = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        up = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **state})
    finally:
        signal.signal(signal.SIGHUP, ours)
    with up, contextlib.ExitStack() as at_the_end:
        at_the_end.callback(up.kill)
        children = [*wait_until(lambda: psutil.Process(up.pid).children(recursive=True)[1:], 30)]
        with httpx.Client(base_url=url) as client:
            wait_until(lambda: serves(client), 30)
            body = {"model": "scripted", "max_tokens": 1, "messages": [{"role": "user", "content": "x" * 10}]}
            for _ in range(600):  # three times what the pipes hold
                assert client.post("/v1/chat/completions", json=body).status_code == 200
        for _ in range(2):
            up.send_signal(signal.SIGHUP)
        assert up.wait(20) == 0
        assert not [child for child in children if alive(child)]


def test_a_second_ctrl_c_kills(tmp_path: Path) -> None:
    with Up(tmp_path, "up", "--engine", "scripted") as up:
        up.wait_ready()
        children = up.children()
        for child in children:
            child.suspend()
        up.interrupt()
        wait_until(lambda: "again kills" in up.output)
        up.interrupt()
        assert up.wait_exit(within=5) == 130
        assert not [child for child in children if child.is_running()]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children of a killed process")
def test_nothing_outlives_a_killed_up(tmp_path: Path) -> None:
    with Up(tmp_path, "up", "--engine", "scripted") as up:
        up.wait_ready()
        children = up.children()
        up.kill()
        wait_until(lambda: not [child for child in children if alive(child)], within=5)


def test_a_gateway_that_dies_comes_back_and_one_that_is_stopped_ends_up(tmp_path: Path) -> None:
    with Up(tmp_path, "up", "--engine", "scripted") as up:
        up.wait_ready()
        gateway(up).send_signal(signal.SIGKILL)
        up.wait(lambda: "gateway has ended with SIGKILL: starting it again in 1 s" in up.output)
        with openai.OpenAI(base_url=f"{up.url}/v1", api_key="none", max_retries=0) as client:
            up.wait(lambda: lists_a_model(client))
        children = up.children()
        gateway(up).send_signal(signal.SIGTERM)
        assert up.wait_exit(within=10) == 0
        assert "gateway has ended with exit code 0: stopping the others" in up.output
        assert not [child for child in children if alive(child)]


def test_a_killed_worker_costs_no_answer_and_comes_back(tmp_path: Path) -> None:
    script = {"MESH_WORKER_SCRIPT_STEP_MS": "20", "MESH_WORKER_SCRIPT_TOKENS": "100"}
    env = {
        **script,
        "MESH_GATEWAY_POLICY": "round_robin",
    }  # by prefix both may go to one, if the first is slow to be seen
    with Up(tmp_path, "up", "--engine", "scripted", "--workers", "2", env=env) as up:
        up.wait_ready()
        before = up.worker("worker-2")
        old = up.worker_id(before)
        with openai.OpenAI(base_url=f"{up.url}/v1", api_key="none", max_retries=0) as client:
            create = functools.partial(
                client.chat.completions.create,
                model="scripted",
                messages=[{"role": "user", "content": "Hello!"}],
                seed=3,
            )
            streams = [create(stream=True), create(stream=True)]  # one on each worker
            firsts = [next(stream) for stream in streams]
            before.send_signal(signal.SIGKILL)
            answers = [
                "".join(chunk.choices[0].delta.content or "" for chunk in [first, *stream] if chunk.choices)
                for first, stream in zip(firsts, streams, strict=True)
            ]
            assert answers == [create(stream=False).choices[0].message.content] * 2
        assert "generation moved" in up.output
        assert "worker-2 has ended with SIGKILL: starting it again in 1 s" in up.output
        new = up.wait(lambda: next((name for name in up.listed() - {old} if "-worker-2-" in name), None))
        assert up.worker_id(up.worker("worker-2")) == new
        up.interrupt()
        assert up.wait_exit(within=10) == 0, up.tail()


def test_ctrl_c_before_a_worker_is_started_again(tmp_path: Path) -> None:
    with Up(tmp_path, "up", "--engine", "scripted") as up:
        up.wait_ready()
        children = up.children()
        up.worker("worker-1").send_signal(signal.SIGKILL)
        up.wait(lambda: "starting it again" in up.output)
        up.interrupt()
        assert up.wait_exit(within=10) == 0, up.tail()
        assert not [child for child in children if alive(child)]
        assert "Traceback" not in up.output


def test_a_worker_that_cannot_start_again_for_a_while_stops_nobody_and_comes_back(tmp_path: Path) -> None:
    port = free_port()
    with Up(tmp_path, "up", "--engine", "scripted", "--worker-port", str(port)) as up:
        up.wait_ready()
        old = up.listed()
        mesh_up = psutil.Process(up.pid)
        limit = mesh_up.rlimit(psutil.RLIMIT_NOFILE)
        mesh_up.rlimit(psutil.RLIMIT_NOFILE, (mesh_up.num_fds(), limit[1]))
        up.worker("worker-1").send_signal(signal.SIGKILL)
        up.wait(lambda: "worker-1 cannot be started: Too many open files: trying again in 2 s" in up.output)
        mesh_up.rlimit(psutil.RLIMIT_NOFILE, limit)
        with socket.create_server(("127.0.0.1", port)):
            up.wait(lambda: "worker-1 has ended with exit code 2: starting it again in 4 s" in up.output)
        up.wait(lambda: up.listed() - old)


def test_drained_workers_are_left_out_until_none_is_left(tmp_path: Path) -> None:
    with Up(tmp_path, "up", "--engine", "scripted", "--workers", "2") as up:
        up.wait_ready()
        up.drain("worker-1")
        up.wait(lambda: "worker-1 has ended as it was asked to: going on without it" in up.output)
        with openai.OpenAI(base_url=f"{up.url}/v1", api_key="none", max_retries=0) as client:
            assert client.models.list().data
        up.drain("worker-2")
        assert up.wait_exit(within=10) == 0, up.tail()
        assert "worker-2 has ended with exit code 0: stopping the others" in up.output


def gateway(up: Up) -> psutil.Process:
    """Its gateway."""
    return next(child for child in up.children() if not up.worker_id(child))


def lists_a_model(client: openai.OpenAI) -> bool:
    """Whether there is a gateway that lists a model."""
    try:
        return bool(client.models.list().data)
    except openai.APIConnectionError:
        return False


def serves(client: httpx.Client) -> bool:
    """Whether the gateway serves a model."""
    try:
        return bool(client.get("/v1/models").json()["data"])
    except httpx.ConnectError:
        return False


def alive(process: psutil.Process) -> bool:
    """Whether it runs; an orphan that nobody has reaped does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
