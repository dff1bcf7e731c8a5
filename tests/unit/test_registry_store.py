"""The embedded registry's data: limits, history, leases and watch streams. Its agreement with etcd: component tests."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from mesh.etcd.v1 import etcd_pb2 as pb
from mesh.registry.embedded import txn
from mesh.registry.embedded.leases import Leases
from mesh.registry.embedded.refusal import Refusal
from mesh.registry.embedded.store import MAX_REQUEST_BYTES, Store
from mesh.registry.embedded.streams import WatchStream

ALL: dict[str, Any] = {"key": b"\0", "range_end": b"\0"}


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def put(store: Store, key: bytes, value: bytes = b"", lease: int = 0) -> None:
    with store.writing():
        store.put(pb.PutRequest(key=key, value=value, lease=lease))


def keys(store: Store) -> list[bytes]:
    return [kv.key for kv in store.range(pb.RangeRequest(**ALL)).kvs]


def watch(stream: WatchStream, **request: Any) -> None:
    create = pb.WatchCreateRequest(**ALL, **request)
    stream.handle(pb.WatchRequest(create_request=create))


def test_history_is_bounded_by_revisions() -> None:
    store = Store(Leases(), max_revisions=10)
    for number in range(100):
        put(store, b"k", b"%d" % number)
    assert store.revision == 101
    assert len(store.history(0)) == 10
    with pytest.raises(Refusal, match="compacted"):
        store.check_range_now(pb.RangeRequest(key=b"k", revision=store.compact_revision - 1))
    past = pb.RangeRequest(key=b"k", revision=store.compact_revision)
    store.check_range_now(past)
    assert store.range(past).kvs[0].value == b"90"


def test_history_is_bounded_by_bytes() -> None:
    store = Store(Leases(), max_history_bytes=100_000)
    for _ in range(50):
        put(store, b"k", bytes(10_000))
    assert 1 <= len(store.history(0)) <= 10


def test_live_data_and_requests_are_bounded() -> None:
    store = Store(Leases(), max_bytes=10_000)
    put(store, b"k", bytes(9_000))
    with pytest.raises(Refusal, match="space exceeded") as full:
        store.check_space(2_000)
    assert full.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    with store.writing():
        store.delete(pb.DeleteRangeRequest(**ALL))
    assert store.bytes == 0
    store.check_space(2_000)
    with pytest.raises(Refusal, match="too large"):
        store.check_space(MAX_REQUEST_BYTES + 1)


def test_sorted_and_cut() -> None:
    store = Store(Leases())
    for key, value in ((b"a", b"3"), (b"b", b"1"), (b"c", b"2")):
        put(store, key, value)
    request = pb.RangeRequest(**ALL, sort_target=pb.RangeRequest.VALUE, sort_order=pb.RangeRequest.DESCEND, limit=2)
    answer = store.range(request)
    assert [kv.key for kv in answer.kvs] == [b"a", b"c"]
    assert answer.more
    assert answer.count == 3


def test_a_transaction_that_is_refused_changes_nothing() -> None:
    store = Store(Leases())
    good = pb.RequestOp(request_put=pb.PutRequest(key=b"a"))
    bad = pb.RequestOp(request_put=pb.PutRequest(key=b"b", lease=7))
    with pytest.raises(Refusal, match="lease not found"):
        txn.run(store, pb.TxnRequest(success=[good, bad]))
    assert (store.revision, keys(store)) == (1, [])
    with pytest.raises(Refusal, match="too many operations"):
        txn.run(store, pb.TxnRequest(success=[pb.RequestOp(request_range=pb.RangeRequest(key=b"a"))] * 129))


def test_leases_expire_unless_renewed() -> None:
    clock = Clock()
    leases = Leases(clock)
    store = Store(leases)
    short, long = leases.grant(5).id, leases.grant(60).id
    put(store, b"short", lease=short)
    put(store, b"long", lease=long)
    clock.now += 4
    assert leases.renew(short) == 5
    clock.now += 4
    assert leases.expired() == []
    clock.now += 1
    assert leases.expired() == [short]
    store.revoke(short)
    assert keys(store) == [b"long"]
    assert leases.renew(short) == 0


def test_a_standstill_is_forgiven() -> None:
    clock = Clock()
    leases = Leases(clock)
    lease = leases.grant(5).id
    clock.now += 30
    leases.forgive(30)
    assert leases.expired() == []
    clock.now += 5
    assert leases.expired() == [lease]


def test_a_key_goes_with_its_last_lease_only() -> None:
    leases = Leases(Clock())
    store = Store(leases)
    old, new = leases.grant(5).id, leases.grant(5).id
    put(store, b"k", b"old", lease=old)
    put(store, b"k", b"new", lease=new)
    store.revoke(old)
    assert keys(store) == [b"k"]


def test_a_slow_watch_gets_all_of_the_kept_history_in_order() -> None:
    store = Store(Leases())
    stream = WatchStream(store)
    watch(stream)
    assert [response.created for response in stream.take()] == [True]
    for number in range(2500):
        put(store, b"k", b"%d" % number)
    responses = stream.take()
    events = [event for response in responses for event in response.events]
    assert [int(event.kv.value) for event in events] == list(range(2500))
    assert 1 < len(responses) < 10
    assert stream.take() == []


def test_a_watch_from_before_the_first_write_gets_each_event_once() -> None:
    store = Store(Leases())
    put(store, b"k", b"1")
    stream = WatchStream(store)
    watch(stream, start_revision=1)
    assert [len(response.events) for response in stream.take()] == [0, 1]
    assert stream.take() == []
    put(store, b"k", b"2")
    assert [len(response.events) for response in stream.take()] == [1]


def test_a_watch_that_is_too_slow_is_ended_as_compacted() -> None:
    store = Store(Leases(), max_revisions=10)
    stream = WatchStream(store)
    watch(stream, watch_id=7)
    watch(stream, watch_id=8, start_revision=1000)
    stream.take()
    for _ in range(20):
        put(store, b"k")
    (ended,) = stream.take()
    assert ended.canceled
    assert ended.watch_id == 7
    assert ended.compact_revision == store.compact_revision
    put(store, b"k")
    assert stream.take() == [], "an ended watch is silent"


def test_progress_is_reported_after_the_events_it_covers() -> None:
    store = Store(Leases())
    stream = WatchStream(store)
    watch(stream)
    put(store, b"k")
    stream.handle(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))
    created, events, progress = stream.take()
    assert created.created
    assert len(events.events) == 1
    assert (progress.watch_id, progress.header.revision) == (-1, store.revision)
    assert not progress.events


def test_filters_cancel_and_taken_ids() -> None:
    store = Store(Leases())
    stream = WatchStream(store)
    watch(stream, watch_id=5, filters=[pb.WatchCreateRequest.NOPUT], prev_kv=True)
    watch(stream, watch_id=5)
    _, taken = stream.take()
    assert taken.canceled
    assert "duplicate" in taken.cancel_reason
    put(store, b"k", b"v")
    with store.writing():
        store.delete(pb.DeleteRangeRequest(key=b"k"))
    (response,) = stream.take()
    (event,) = response.events
    assert (event.type, event.prev_kv.value) == (pb.Event.DELETE, b"v")
    stream.handle(pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=5)))
    (cancelled,) = stream.take()
    assert (cancelled.canceled, cancelled.watch_id) == (True, 5)
    put(store, b"k")
    assert stream.take() == []


def test_fragments_are_small_enough_to_send() -> None:
    store = Store(Leases())
    stream = WatchStream(store)
    watch(stream, fragment=True)
    stream.take()
    with store.writing():
        for number in range(4):
            store.put(pb.PutRequest(key=b"%d" % number, value=bytes(MAX_REQUEST_BYTES // 3)))
    responses = stream.take()
    assert [response.fragment for response in responses] == [True, False]
    assert [event.kv.key for response in responses for event in response.events] == [b"0", b"1", b"2", b"3"]
