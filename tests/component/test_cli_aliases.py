"""`mesh ctl alias`, and that a gateway does as it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.cli.ctl import main
from tests.harness import Mesh


def ctl(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["alias", *argv]) == 0
    return capsys.readouterr().out


def test_an_alias_is_set_used_listed_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Mesh(tmp_path, workers=1) as mesh, mesh.http() as http:
        where = ("--etcd", mesh.gateway.etcd)

        def status() -> int:
            return http.post("/v1/chat/completions", json={**mesh.chat("hi", max_tokens=1), "model": "gpt"}).status_code

        assert ctl(capsys, "list", *where) == "no aliases\n"
        assert status() == 404
        further = ("--split", "none=0.0001", "--fallback", mesh.model, "--fallback-after", "0.5", "--shadow", "none=1")
        assert ctl(capsys, "set", "gpt", mesh.model, *further, *where) == f"gpt stands for {mesh.model}\n"
        mesh.gateway.wait_for_record("alias", 5)
        assert status() == 200
        row = ctl(capsys, "list", *where).splitlines()[-1].split()
        assert row == ["gpt", mesh.model, "none", "0.0001", mesh.model, "after", "0.5", "s", "none", "1"]
        assert ctl(capsys, "remove", "gpt", *where) == "gpt stands for nothing any more\n"
        mesh.gateway.wait(lambda: status() == 404, 5)


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["alias", *argv])
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_what_cannot_be_set_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert "an alias must name a model" in refused(capsys, "set", "a")
    assert "--split must be MODEL=SHARE" in refused(capsys, "set", "a", "m", "--split", "b")
    assert "must be at most 1 together, not 1.4" in refused(
        capsys, "set", "a", "m", "--split", "b=0.7", "--split", "c=0.7"
    )
    assert "the alias must have a name" in refused(capsys, "remove", "")
