"""`mesh chat` and `mesh ctl` against a running mesh, and what `mesh` says to bad input."""

from __future__ import annotations

import errno
import json
import os
import pty
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.cli.child import command
from mesh.v1 import registry_pb2
from mesh.version import version
from tests.harness import ROOT, Mesh, free_port, wait_until

WORDS = 40
SEEDED = ("--set", "seed=1")  # what differs then differs by the prompt


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    args = ("--engine", "scripted", "--script-step-ms", "5", "--script-tokens", str(WORDS))
    with Mesh(tmp_path_factory.mktemp("cli"), worker_args=args) as mesh:
        yield mesh


def run(*argv: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run `mesh ARGV` to its end."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("MESH_")}
    return subprocess.run(
        [sys.executable, "-m", "mesh.cli", *argv],
        input=given,
        capture_output=True,
        text=True,
        timeout=30,
        cwd=ROOT,
        env=environ,
        check=False,
    )


class Terminal:
    """`mesh ARGV` with a terminal in front of it."""

    def __init__(self, *argv: str, kind: str = "dumb") -> None:
        self._ours, theirs = pty.openpty()
        os.set_blocking(self._ours, False)
        self._process = subprocess.Popen(
            command("mesh.cli", *argv),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=ROOT,
            start_new_session=True,
            env={**os.environ, "TERM": kind, "COLUMNS": "120"},
        )
        os.close(theirs)
        self.screen = ""
        self._hung_up = False

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(5)
        os.close(self._ours)

    def type(self, text: str) -> None:
        """Type a text."""
        os.write(self._ours, text.encode())

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def wait_for(self, text: str, times: int = 1, within: float = 15.0) -> None:
        """Wait until the text is on the screen so many times."""
        wait_until(lambda: self._read().count(text) >= times, within)

    def wait_exit(self, within: float = 10.0) -> int:
        """The exit code."""
        wait_until(self._ended, within)
        return self._process.returncode

    def _ended(self) -> bool:
        # The kernel hands over what was written some time later, also after the writer's end: what counts is that
        # nobody holds the other side any more and that all of it was read.
        self._read()
        return self._hung_up and self._process.poll() is not None

    def _read(self) -> str:
        try:
            while piece := os.read(self._ours, 65536):
                self.screen += piece.decode(errors="replace")
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self._hung_up = True
        return self.screen


def test_chat_answers_each_line_of_a_pipe(mesh: Mesh):
    done = run("chat", "--url", mesh.gateway.url, *SEEDED, given="Hello!\n\nAnd now?\n")
    assert done.returncode == 0, done.stderr
    answers = done.stdout.splitlines()
    assert [len(answer.split()) for answer in answers] == [WORDS, WORDS]
    # The second one answers the whole conversation, so it differs from what the question alone would get.
    alone = run("chat", "--url", mesh.gateway.url, *SEEDED, given="And now?\n")
    assert alone.stdout.splitlines() != answers[1:]
    each = run("chat", "--url", mesh.gateway.url, *SEEDED, "--no-history", given="Hello!\n\nAnd now?\n")
    assert each.stdout.splitlines() == [answers[0], *alone.stdout.splitlines()]


def test_chat_sends_the_system_message(mesh: Mesh):
    plain, again = (run("chat", "--url", mesh.gateway.url, *SEEDED, given="Hello!\n") for _ in range(2))
    told = run("chat", "--url", mesh.gateway.url, *SEEDED, "--system", "Be brief.", given="Hello!\n")
    assert plain.returncode == told.returncode == 0
    assert plain.stdout == again.stdout
    assert plain.stdout != told.stdout


def test_chat_answers_one_message_of_words_and_a_pipe(mesh: Mesh):
    def answer(*argv: str, given: str = "") -> str:
        done = run("chat", "--url", mesh.gateway.url, *SEEDED, "--max-tokens", "9", *argv, given=given)
        assert (done.returncode, done.stderr) == (0, "[cut off at the limit of tokens]\n")
        return done.stdout

    alone = answer("What", "is it?")
    assert len(alone.split()) == 9
    assert answer("What is it?") == alone
    assert answer("-", given="What is it?\n") == alone
    both = answer("What is it?", "-", given="two\nlines\n")
    assert both == answer("-", given="What is it?\n\ntwo\nlines")
    assert both != alone


def test_chat_speaks_json_with_programs(mesh: Mesh):
    lines = ["Hello!", '{"content": "two\\nlines"}', "/set max_tokens 3", "again", "/bogus", "{"]
    done = run("chat", "--url", mesh.gateway.url, "--style", "programmatic", given="\n".join(lines) + "\n")
    assert (done.returncode, done.stderr) == (1, "")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events if event["event"] != "text"] == [
        *("answer", "answer", "note", "answer", "error", "error")
    ]
    answers = [event for event in events if event["event"] == "answer"]
    assert "".join(event["text"] for event in events if event["event"] == "text") == "".join(
        answer["content"] for answer in answers
    )
    assert [answer["completion_tokens"] for answer in answers][2] == 3
    assert [answer["finish_reason"] for answer in answers] == ["stop", "stop", "length"]
    assert all(0 <= answer["first_token_seconds"] <= answer["seconds"] for answer in answers)


def test_chat_without_a_message_or_a_gateway(mesh: Mesh):
    done = run("chat", "--url", mesh.gateway.url, "-", given="\n")
    assert (done.returncode, done.stderr) == (2, "mesh chat: there is no message: it is empty\n")
    nobody = f"http://127.0.0.1:{free_port()}"
    done = run("chat", "--url", nobody, "hello")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"no gateway answers at {nobody}" in done.stderr


def test_chat_names_the_models_there_are(mesh: Mesh):
    done = run("chat", "--url", mesh.gateway.url, "--model", "other", given="x\n")
    assert done.returncode == 2
    assert done.stderr == "mesh chat: model 'other' is not served; there are: scripted\n"


def test_chat_goes_on_after_a_refusal(mesh: Mesh):
    done = run("chat", "--url", mesh.gateway.url, given=f"{'long ' * 5000}\nHello!\n")
    assert done.returncode == 1
    assert "context" in done.stderr
    assert len(done.stdout.split()) == WORDS


def test_ctl_lists_workers(mesh: Mesh):
    done = run("ctl", "workers", "--etcd", mesh.gateway.etcd)
    assert done.returncode == 0, done.stderr
    _, line = done.stdout.splitlines()
    assert line.split()[:6] == ["worker-0", "ready", mesh.workers[0].address, "scripted", "64", "scripted"]
    [record] = json.loads(run("ctl", "workers", "--etcd", mesh.gateway.etcd, "--json").stdout)
    assert (record["worker_id"], record["state"], record["slots"]) == ("worker-0", "WORKER_STATE_READY", 64)


@pytest.mark.parametrize("by_address", [False, True])
def test_ctl_shows_counters(mesh: Mesh, by_address: bool):
    name = mesh.workers[0].address if by_address else "worker-0"
    done = run("ctl", "stats", name, "--etcd", mesh.gateway.etcd)
    assert done.returncode == 0, done.stderr
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert rows["worker"].strip() == "worker-0"
    assert rows["state"].strip() == "ready"
    assert rows["load.slots"].strip() == "64"
    assert int(rows["engine.steps"]) >= 0
    facts = json.loads(run("ctl", "stats", name, "--etcd", mesh.gateway.etcd, "--json").stdout)
    assert (facts["worker"], facts["load.slots"], facts.keys()) == ("worker-0", 64, rows.keys())


@pytest.mark.parametrize("way", ["gateway", "id", "address"])
def test_ctl_sends_a_message(mesh: Mesh, way: str):
    worker = mesh.workers[0]
    flags = {
        "gateway": ("--url", mesh.gateway.url),
        "id": ("--worker", worker.name, "--etcd", mesh.gateway.etcd),
        "address": ("--worker", worker.address),
    }[way]
    before = worker.stats().streams_finished
    done = run("ctl", "message", *flags, "--max-tokens", "5", "How", "are you?")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 5
    assert "[5 tokens in " in done.stderr
    told = json.loads(run("ctl", "message", *flags, "--max-tokens", "5", "--json", "How are you?").stdout)
    assert (told["content"].split(), told["completion_tokens"]) == (done.stdout.split(), 5)
    assert worker.stats().streams_finished == before + 2


def test_ctl_measures_throughput(mesh: Mesh):
    load = ("ctl", "throughput", "--requests", "6", "--answer-tokens", "4", "--prompt-words", "3", "--json")
    for target in (("--url", mesh.gateway.url), ("--worker", mesh.workers[0].address, "--rate", "100")):
        done = run(*load, *target)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["requests"], found["answered"], found["failed"], found["output_tokens"]) == (6, 6, 0, 24)
        for name in ("first_token", "per_output_token", "end_to_end"):
            assert 0 < found[name]["p50"] <= found[name]["p99"] <= found[name]["max"]


def test_ctl_throughput_is_watched_and_ended_early(mesh: Mesh):
    flags = ("--url", mesh.gateway.url, "--requests", "5000", "--answer-tokens", "100")
    with Terminal("ctl", "throughput", *flags, kind="xterm") as terminal:
        terminal.wait_for("of 5000 answered", times=2)
        terminal.interrupt()
        assert terminal.wait_exit() == 1
        assert "Traceback" not in terminal.screen
        assert "0 under way" in terminal.screen
    wait_until(lambda: mesh.workers[0].stats().load.running == 0)


def test_ctl_top_looks_once(mesh: Mesh):
    watched = f"{mesh.gateway.url},http://127.0.0.1:{free_port()},http://{mesh.workers[0].address}"
    flags = ("--etcd", mesh.gateway.etcd, "--gateways", watched, "--once", "--interval", "0.5")
    looking = subprocess.Popen(
        [sys.executable, "-m", "mesh.cli", "ctl", "top", *flags, "--json"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    with mesh.http() as client:
        while looking.poll() is None:
            assert client.post("/v1/chat/completions", json=mesh.chat("hello")).status_code == 200
    assert looking.stdout is not None
    frame = json.loads(looking.stdout.read())
    looking.stdout.close()
    [worker] = frame["workers"]
    assert (worker["worker"], worker["state"], worker["slots"]) == ("worker-0", "ready", 64)
    assert worker["tokens_per_second"] > 0
    gateway, nobody, no_gateway = frame["gateways"]
    assert gateway["requests_per_second"] >= 0
    assert "refused" in nobody["error"]
    assert "speaks no HTTP" in no_gateway["error"]


@pytest.mark.parametrize("kind", ["dumb", "xterm"])
def test_ctl_top_goes_on_until_ctrl_c(mesh: Mesh, kind: str):
    with Terminal("ctl", "top", "--etcd", mesh.gateway.etcd, "--interval", "0.2", kind=kind) as terminal:
        terminal.wait_for("worker-0", times=3)
        terminal.interrupt()
        assert terminal.wait_exit() == 0


def test_ctl_drains(mesh: Mesh):
    worker = mesh.add_worker(name="to-drain")
    done = run("ctl", "drain", "to-drain", "--etcd", mesh.gateway.etcd)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "to-drain drains; live streams: 0\n"
    wait_until(lambda: "draining" in run("ctl", "workers", "--etcd", mesh.gateway.etcd).stdout)
    wait_until(lambda: mesh.gateway.metric("mesh_gateway_workers", state="draining") == 1)
    done = run("ctl", "undrain", "to-drain", "--etcd", mesh.gateway.etcd)
    assert (done.returncode, done.stdout) == (0, "to-drain takes requests again; live streams: 0\n")
    wait_until(lambda: mesh.gateway.metric("mesh_gateway_workers", state="ready") == 2)
    assert mesh.registered()["to-drain"].state == registry_pb2.WORKER_STATE_READY
    done = run("ctl", "drain", worker.address, "--stop")
    assert done.returncode == 0, done.stderr
    assert worker.wait_exit() == 0


def test_ctl_without_such_a_worker(mesh: Mesh):
    done = run("ctl", "stats", "nobody", "--etcd", mesh.gateway.etcd)
    assert done.returncode == 2
    assert "no worker 'nobody' in the registry; there are: worker-0" in done.stderr


def test_version_and_usage():
    assert run("--version").stdout == f"mesh {version()}\n"
    usage = run("--help")
    assert usage.returncode == 0
    assert all(name in usage.stdout for name in ("up", "chat", "ctl"))
    assert run().returncode == 2
    assert run("ctl").returncode == 2
    for name in ("up", "chat"):
        assert run(name, "--help").returncode == 0


@pytest.mark.parametrize("name", ["data", "mtbench", "arena"])
def test_a_folder_of_the_users_is_not_taken_for_a_package_of_ours(tmp_path: Path, name: str) -> None:
    for package in ("training", "benchmarks", "webui"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('the wrong one')\n")
    argv = [Path(sys.executable).with_name("mesh"), name, "--help"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "usage" in done.stdout.lower()) == (0, True), done.stderr


@pytest.mark.parametrize("argv", [("templates",), ("ctl", "keys", "create", "--name", "me", "--keys-file", "keys")])
def test_nobody_reads_the_output(tmp_path: Path, argv: tuple[str, ...]):
    """As after `| head -1`, once it has what it wanted."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as output:
        done = subprocess.run(
            [sys.executable, "-m", "mesh.cli", *argv], stdout=output, stderr=subprocess.PIPE, timeout=30, cwd=tmp_path
        )
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("argv", [("templates",), ("data", "--help")])
def test_the_disk_of_the_output_is_full(argv: tuple[str, ...]):
    with open("/dev/full", "wb") as output:
        done = subprocess.run(
            [sys.executable, "-m", "mesh.cli", *argv], stdout=output, stderr=subprocess.PIPE, timeout=30, text=True
        )
    assert (done.returncode, done.stderr) == (1, f"mesh {argv[0]}: No space left on device\n")


@pytest.mark.parametrize(
    ("words", "answered"),
    [
        ("hello >&-", 0),  # without a standard output
        ("<&-", 0),  # without a standard input
        ("$'a\\xffb' - <<< $'a\\xffb'", 3),  # bytes that are no text
    ],
)
def test_chat_with_what_a_shell_can_do(mesh: Mesh, words: str, answered: int):
    command_line = f"{shlex.quote(sys.executable)} -m mesh.cli chat --url {mesh.gateway.url} --max-tokens 3 {words}"
    done = subprocess.run(["bash", "-c", command_line], timeout=30, capture_output=True, check=False)
    assert (done.returncode, len(done.stdout.split())) == (0, answered), done.stderr


def test_ctrl_c_while_a_command_waits():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for argv in (("chat", "--url", url, "hello"), ("ctl", "message", "--url", url)):
            with Terminal(*argv) as terminal:
                connection, _ = silent.accept()
                with connection:
                    terminal.interrupt()
                    assert terminal.wait_exit() == 130
                assert "Traceback" not in terminal.screen


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("upp",), ["upp", "did you mean up?"]),
        (("ctl", "drian"), ["drian", "workers, stats, drain"]),
        (("ctl", "stats"), ["a worker must be named"]),
        (("ctl", "top", "--json"), ["--json", "--once"]),
        (("ctl", "top", "--gateways", "host:1"), ["http://", "host:1"]),
        (("ctl", "workers", "--etcd", "ftp://x"), ["ftp://x"]),
        (("up", "--workers", "0"), ["--workers", "between 1 and 64", "0"]),
        (("up", "--wokers", "2"), ["--wokers", "did you mean --workers?"]),
        (("up", "--engine", "scripted", "--model-path", "m"), ["--model-path has no effect"]),
        (("up", "--worker-port", "65530", "--workers", "9"), ["65535"]),
        (("ctl", "throughput", "--rate", "1", "--concurrency", "2"), ["--rate", "--concurrency", "exclude"]),
        (("ctl", "message", "--worker", "a:1", "--url", "http://x"), ["--url", "no effect with --worker"]),
        (("chat", "--url", "ftp://x"), ["http://host:port", "ftp://x"]),
        (("chat", "--url", "http://host:8o"), ["http://host:port", "host:8o"]),
        (("chat", "--api-key", "sk x"), ["--api-key", "without spaces"]),
        (("chat", "--set", "temprature=1", "x"), ["temprature", "did you mean temperature?"]),
    ],
)
def test_bad_input_is_one_sentence(argv: tuple[str, ...], words: list[str]):
    done = run(*argv)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words), done.stderr


def test_ctl_without_a_registry_or_a_worker():
    nobody = f"127.0.0.1:{free_port()}"
    done = run("ctl", "workers", "--etcd", nobody)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert nobody in done.stderr
    for target in (("--url", f"http://{nobody}"), ("--worker", nobody)):
        done = run("ctl", "message", *target)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert nobody in done.stderr
    done = run("ctl", "stats", nobody)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert nobody in done.stderr


def test_templates_are_listed_and_printed() -> None:
    listed = run("templates")
    assert listed.returncode == 0
    names = [line.split()[0] for line in listed.stdout.splitlines()[1:]]
    assert {"vicuna", "llama-2", "chatml", "zephyr"} < set(names)
    printed = run("templates", "chatml")
    assert printed.returncode == 0
    assert printed.stdout == (ROOT / "mesh/templates/chatml.jinja").read_text(encoding="utf-8")
    unknown = run("templates", "vicunja")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "no template 'vicunja'" in unknown.stderr
