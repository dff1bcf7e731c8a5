"""Proofs of the join token: for what they hold, and for nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mesh.errors import ErrorKind, MeshError
from mesh.join import JoinToken
from mesh.v1.registry_pb2 import ServedModel, WorkerRecord

TOKEN = JoinToken("a secret of this mesh")
OTHER = JoinToken("a secret of another mesh")
OPENING = (b"g" * 32, b"w" * 32, "w1", "i1")


def record() -> WorkerRecord:
    models = [ServedModel(name="m", fingerprint="f"), ServedModel(name="n", fingerprint="g")]
    made = WorkerRecord(worker_id="w1", incarnation="i1", address="10.0.0.1:50051", models=models, slots=8)
    made.proof = TOKEN.record(made)
    return made


def change_model(made: WorkerRecord) -> None:
    made.models[0].name = "other"


def change_border(made: WorkerRecord) -> None:
    made.worker_id, made.incarnation = "w1i", "1"


def swap_models(made: WorkerRecord) -> None:
    made.models[0].name, made.models[0].fingerprint = "f", "m"


CHANGES: list[Callable[[WorkerRecord], object]] = [
    lambda made: setattr(made, "address", "10.6.6.6:50051"),
    lambda made: setattr(made, "worker_id", "w2"),
    lambda made: setattr(made, "incarnation", "i2"),
    lambda made: setattr(made, "proof", ""),
    lambda made: setattr(made, "proof", "é"),
    lambda made: made.models.add(name="more"),
    change_model,
    change_border,
    swap_models,
]


def test_a_record_as_it_was_written_is_good_and_what_it_says_besides_may_change() -> None:
    made = record()
    TOKEN.check_record(made)
    made.slots = 9
    made.labels["rack"] = "7"
    TOKEN.check_record(made)


@pytest.mark.parametrize("change", CHANGES)
def test_a_record_that_was_changed_is_refused(change: Callable[[WorkerRecord], object]) -> None:
    made = record()
    change(made)
    with pytest.raises(MeshError) as caught:
        TOKEN.check_record(made)
    assert caught.value.kind is ErrorKind.UNAUTHORIZED


def test_a_record_of_another_mesh_is_refused() -> None:
    with pytest.raises(MeshError, match="not of this join token"):
        OTHER.check_record(record())


def test_a_session_proof_holds_for_one_side_of_one_opening() -> None:
    proof = TOKEN.session("worker", OPENING)
    TOKEN.check_session("worker", OPENING, proof)
    others = [
        ("gateway", OPENING),
        ("worker", (b"x" * 32, *OPENING[1:])),
        ("worker", (OPENING[0], b"x" * 32, *OPENING[2:])),
        ("worker", (*OPENING[:3], "i2")),
    ]
    for side, opening in others:
        with pytest.raises(MeshError, match=f"the {side} did not prove"):
            TOKEN.check_session(side, opening, proof)
    with pytest.raises(MeshError):
        OTHER.check_session("worker", OPENING, proof)


def test_an_opening_without_a_real_nonce_proves_nothing() -> None:
    for opening in ((b"", *OPENING[1:]), (OPENING[0], b"short", *OPENING[2:])):
        with pytest.raises(MeshError):
            TOKEN.check_session("worker", opening, TOKEN.session("worker", opening))


def test_a_short_secret_is_none_and_is_not_shown() -> None:
    with pytest.raises(MeshError) as caught:
        JoinToken("hunter2")
    assert caught.value.message == "the join token must have at least 16 characters, not 7"
    assert "secret" not in repr(TOKEN)
