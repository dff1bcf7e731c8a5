"""How a running mesh is noted and its processes are told from others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.cli.up import down, process, record
from mesh.cli.up.logs import Log
from mesh.errors import MeshError
from tests.harness import wait_until


def test_a_later_process_with_the_same_pid_is_left_alone():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        known = process.identity(child.pid)
        assert known is not None
        assert known == process.identity(child.pid)
        assert known != process.identity(os.getpid())
        assert not process.send(child.pid, known + "0", signal.SIGKILL)
        assert child.poll() is None
        assert process.send(child.pid, known, signal.SIGKILL)
        wait_until(lambda: process.identity(child.pid) is None)  # though nobody has reaped it
    assert child.returncode == -signal.SIGKILL
    assert not process.send(child.pid, known, signal.SIGKILL)


def test_a_record_is_read_as_it_was_written(tmp_path: Path):
    path = record.path_of(tmp_path / "state", "a-1.b_c")
    mesh = record.Record("a-1.b_c", "1", os.getpid(), process.identity(os.getpid()) or "", 1.5, True, "r", "l", [])
    record.write(path, mesh)
    assert record.read(path) == mesh
    assert record.read_all(tmp_path / "state") == [mesh]
    assert mesh.alive
    assert record.read(path.with_name("none.json")) is None
    assert path.parent.stat().st_mode & 0o077 == 0


def test_one_of_several_meshes_must_be_named_to_be_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("one", "two"):
        record.write(record.path_of(tmp_path, name), record.Record(name, "1", 0, "gone", 0, True, "r", "l", []))
    with pytest.raises(SystemExit) as ended:
        down.main(["--state-dir", str(tmp_path)])
    assert ended.value.code == 2
    assert "one, two" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        down.main(["three", "--state-dir", str(tmp_path)])
    assert "there are: one, two" in capsys.readouterr().err
    assert down.main(["two", "--state-dir", str(tmp_path)]) == 0
    assert [mesh.name for mesh in record.read_all(tmp_path)] == ["one"]


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a b"])
def test_a_name_is_one_of_a_file(tmp_path: Path, name: str):
    with pytest.raises(MeshError, match="letters, digits"):
        record.path_of(tmp_path, name)


def test_a_file_that_is_no_record_is_named(tmp_path: Path):
    (tmp_path / "x.json").write_text('{"name": 3}')
    with pytest.raises(MeshError, match=r"x\.json"):
        record.read_all(tmp_path)


def test_a_log_keeps_the_run_before_and_does_not_grow_for_ever(tmp_path: Path):
    path, old = tmp_path / "w.log", tmp_path / "w.log.1"
    with Log(path) as log:
        log.write(b"first run\n")
    with Log(path, largest=20) as log:
        assert old.read_bytes() == b"first run\n"
        for number in range(5):
            log.write(b"line %d...\n" % number)
    assert (old.read_bytes(), path.read_bytes()) == (b"line 2...\nline 3...\n", b"line 4...\n")
