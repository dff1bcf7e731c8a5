"""Which worker takes a request, by the loads that they report."""

from __future__ import annotations

from collections import Counter

from gateway.routing.balance import least_loaded, prefer_zone
from gateway.routing.pace import StallLimits
from gateway.routing.session import Session, dialler
from mesh.v1 import inference_pb2 as pb
from mesh.v1.registry_pb2 import WorkerRecord


def session(worker_id: str, *, running: int = 0, waiting: int = 0, slots: int = 8, zone: str = "") -> Session:
    record = WorkerRecord(worker_id=worker_id, incarnation="i", address="127.0.0.1:1", slots=slots, zone=zone)
    made = Session(
        record, client="test", dial=dialler(None), limits=StallLimits(), on_change=lambda: None, on_message=lambda: None
    )
    made.load = pb.WorkerLoad(running=running, waiting=waiting, slots=slots)
    return made


def test_the_less_loaded_of_two_is_taken() -> None:
    busy, idle = session("busy", running=5), session("idle", running=4)
    assert {least_loaded([busy, idle]).worker_id for _ in range(50)} == {"idle"}


def test_load_is_relative_to_size() -> None:
    small, large = session("small", running=2, slots=2), session("large", running=8, slots=64)
    assert {least_loaded([small, large]).worker_id for _ in range(50)} == {"large"}


def test_rows_that_the_worker_has_not_reported_count() -> None:
    first, second = session("first"), session("second", running=1)
    first.unconfirmed = 2
    assert {least_loaded([first, second]).worker_id for _ in range(50)} == {"second"}


def test_the_most_loaded_of_many_is_never_taken_and_the_others_share() -> None:
    sessions = [session(f"w{index}", running=index) for index in range(5)]
    counts = Counter(least_loaded(sessions).worker_id for _ in range(5000))
    assert counts["w4"] == 0
    assert counts["w0"] > counts["w1"] > counts["w2"] > counts["w3"] > 0


def test_the_own_zone_goes_first_while_it_has_room() -> None:
    near, far = session("near", running=7, zone="z"), session("far", zone="y")
    assert list(prefer_zone([near, far], "z")) == [near]
    near.load.running = 8
    assert list(prefer_zone([near, far], "z")) == [near, far]
    assert list(prefer_zone([near, far], "")) == [near, far]
