"""`mesh ctl keys` on both stores, read back by the gateway's own code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.cli.ctl import main
from mesh.keys import digest, id_of
from tests.harness import Gateway

Run = Callable[..., str]


@pytest.fixture
def ctl(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `mesh ctl ARGV` in this process; returns what it prints."""

    def run(*argv: str) -> str:
        assert main(argv) == 0
        return capsys.readouterr().out

    return run


def test_the_life_of_a_key(tmp_path: Path, ctl: Run) -> None:
    with Gateway(tmp_path, "gateway", "--require-keys") as gateway:
        gateway.wait_ready()
        where = ("--etcd", gateway.etcd)
        limits = ("--model", "m", "--model", "n", "--token-budget", "1000", "--expires", "30d")
        text = ctl("keys", "create", "--name", "team a", *limits, *where).removesuffix("\n")
        key_id = id_of(text) or ""
        listed = ctl("keys", "list", *where)
        assert all(part in listed for part in (key_id, "team a", "m, n", "0 of 1000"))
        assert text not in listed
        [found] = json.loads(ctl("keys", "list", "--json", *where))
        assert (found["models"], found["token_budget"], found["tokens"]) == (["m", "n"], 1000, 0)
        assert "hash" not in found
        assert found == json.loads(ctl("keys", "show", key_id, "--json", *where))
        assert "requests_per_minute" in ctl("keys", "show", key_id, *where)
        headers = {"authorization": f"Bearer {text}"}
        gateway.wait(lambda: gateway.get("/v1/models", headers).status_code == 200, 5)
        reader = ctl("keys", "create", "--name", "top", "--metrics", *where).removesuffix("\n")
        look = ("top", "--once", "--json", "--interval", "0.1", "--gateways", gateway.url, *where)
        gateway.wait(lambda: gateway.get("/metrics", {"x-api-key": reader}).status_code == 200, 5)
        assert not json.loads(ctl(*look, "--api-key", reader))["gateways"][0].get("error")
        assert "made with --metrics" in json.loads(ctl(*look, "--api-key", text))["gateways"][0]["error"]
        ctl("keys", "revoke", id_of(reader) or "", *where)
        assert ctl("keys", "revoke", key_id, *where) == f"key {key_id} is revoked\n"
        gateway.wait(lambda: gateway.get("/v1/models", headers).status_code == 401, 5)
        assert ctl("keys", "list", *where) == "no keys\n"


def test_keys_in_a_file(tmp_path: Path, ctl: Run) -> None:
    where = ("--keys-file", str(tmp_path / "keys.json"))
    made = json.loads(ctl("keys", "create", "--name", "a", "--json", *where))
    assert id_of(made["key"]) == made["id"]
    assert digest(made["key"]) in (tmp_path / "keys.json").read_text()
    assert made["key"] not in ctl("keys", "list", *where) + (tmp_path / "keys.json").read_text()


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (("create",), "'name' must be 1 to 100 printable characters"),
        (("create", "--name", "a", "--expires", "soon"), "a duration such as 30d"),
        (("create", "--name", "a", "--concurrency", "0"), "--concurrency must be at least 1, not 0"),
        (("revoke", "nobody"), "there is no key 'nobody'"),
        (("show",), "there is no key ''"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["keys", *argv, "--keys-file", str(tmp_path / "keys.json")])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err
