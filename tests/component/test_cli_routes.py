"""`mesh ctl routes`, and that a gateway does as it says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from mesh.cli.ctl import main
from tests.harness import Mesh


def ctl(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["routes", *argv]) == 0
    return capsys.readouterr().out


def test_a_route_is_set_seen_and_unset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Mesh(tmp_path, workers=2) as mesh, mesh.http() as http:
        where = ("--etcd", mesh.gateway.etcd)

        def spread() -> list[int]:
            before = Counter({worker.name: worker.stats().streams_started for worker in mesh.workers})
            for _ in range(4):
                assert http.post("/v1/chat/completions", json=mesh.chat("hi", max_tokens=1)).status_code == 200
            after = Counter({worker.name: worker.stats().streams_started for worker in mesh.workers})
            return sorted(after[name] - before[name] for name in after)

        assert ctl(capsys, "list", *where) == "no routes\n"
        assert spread() == [0, 4]
        assert ctl(capsys, "set", mesh.model, "--policy", "round_robin", *where) == (
            f"{mesh.model} is balanced by round_robin\n"
        )
        mesh.gateway.wait_for_record("route", 5)
        assert spread() == [2, 2]
        assert "round_robin" in ctl(capsys, "list", *where)
        ctl(capsys, "unset", mesh.model, *where)
        mesh.gateway.wait(lambda: len([r for r in mesh.gateway.records() if r["message"] == "route"]) == 2, 5)
        assert spread() == [0, 4]


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["routes", *argv])
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_what_cannot_be_set_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert "must be one of prefix_aware" in refused(capsys, "set", "m", "--policy", "fastest")
    assert "--load-factor must be between 1 and 100" in refused(capsys, "set", "m", "--load-factor", "0.5")
    assert "a model must be named" in refused(capsys, "set", "--policy", "random")
