"""What is written into etcd: keys and values."""

from __future__ import annotations

import json

import pytest

from mesh.errors import MeshError
from mesh.registry import decode, encode, key_for
from mesh.registry.records import supersedes
from mesh.v1.registry_pb2 import WORKER_STATE_READY, ServedModel, WorkerRecord


def make_record(incarnation: str = "first", started: int = 1_700_000_000) -> WorkerRecord:
    record = WorkerRecord(
        worker_id="w1",
        incarnation=incarnation,
        address="10.0.0.1:50051",
        models=[ServedModel(name="modèle", fingerprint="abc", context_length=4096)],
        slots=8,
        state=WORKER_STATE_READY,
    )
    record.started_at.FromSeconds(started)
    return record


def test_a_record_is_one_line_of_json_with_the_names_of_the_proto() -> None:
    value = encode(make_record())
    assert b"\n" not in value
    assert "modèle".encode() in value
    assert json.loads(value) == {
        "worker_id": "w1",
        "incarnation": "first",
        "address": "10.0.0.1:50051",
        "models": [{"name": "modèle", "fingerprint": "abc", "context_length": 4096}],
        "slots": 8,
        "state": "WORKER_STATE_READY",
        "started_at": "2023-11-14T22:13:20Z",
    }
    assert decode(value) == make_record()


def test_what_a_newer_version_adds_is_ignored() -> None:
    value = json.loads(encode(make_record()))
    value["new_field"] = {"deep": [1, 2]}
    value["models"][0]["other"] = True
    value["models"][0]["capabilities"] = ["CAPABILITY_OF_TOMORROW"]
    assert decode(json.dumps(value).encode()) == make_record()


@pytest.mark.parametrize(
    "value",
    [b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"slots": "many"}', b'{"worker_id": "w1"}', b'{"address": "a:1"}'],
)
def test_what_is_no_record_is_refused(value: bytes) -> None:
    with pytest.raises(MeshError):
        decode(value)


def test_keys() -> None:
    assert key_for("w1") == "/mesh/v1/workers/w1"
    for bad in ("", "a/b", "a\nb"):
        with pytest.raises(MeshError, match="worker_id"):
            key_for(bad)


def test_the_later_start_has_the_key() -> None:
    old, new = make_record("zz", started=10), make_record("aa", started=11)
    assert supersedes(new, old)
    assert not supersedes(old, new)
    twin = make_record("ab", started=11)
    assert supersedes(twin, new) != supersedes(new, twin), "one of two that started together must win"
