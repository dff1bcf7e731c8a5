"""Transactions of the embedded registry: compare, choose a branch, do it in one revision."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from mesh.etcd.v1 import etcd_pb2 as pb
from mesh.registry.embedded.refusal import bad_request
from mesh.registry.embedded.store import Store, covers

# As etcd's default limit.
MAX_OPERATIONS = 128
# Deeper nesting than anybody writes by hand, and far from the interpreter's own limit.
MAX_DEPTH = 16


def run(store: Store, request: pb.TxnRequest) -> pb.TxnResponse:
    """Run a transaction; raises Refusal, before any change, if a part of it cannot be done."""
    _check(request)
    # Which branches are taken, those of inner transactions too, depends on the state before the first change.
    plan = _choose(store, request)
    _check_now(store, plan)
    with store.writing():
        answer = _run(store, plan)
    answer.header.revision = store.revision
    return answer


@dataclass
class _Plan:
    """The branch of a transaction that will be done, with the plans of the transactions in it."""

    succeeded: bool
    operations: Iterable[pb.RequestOp]
    inner: list[_Plan] = field(default_factory=list["_Plan"])


def _choose(store: Store, request: pb.TxnRequest) -> _Plan:
    succeeded = all(_holds(store, compare) for compare in request.compare)
    plan = _Plan(succeeded, request.success if succeeded else request.failure)
    inner = (op.request_txn for op in plan.operations if op.HasField("request_txn"))
    plan.inner.extend(_choose(store, txn) for txn in inner)
    return plan


def _run(store: Store, plan: _Plan) -> pb.TxnResponse:
    answer = pb.TxnResponse(succeeded=plan.succeeded)
    inner = iter(plan.inner)
    for op in plan.operations:
        match op.WhichOneof("request"):
            case "request_range":
                answer.responses.add(response_range=store.range(op.request_range))
            case "request_put":
                answer.responses.add(response_put=store.put(op.request_put))
            case "request_delete_range":
                answer.responses.add(response_delete_range=store.delete(op.request_delete_range))
            case "request_txn":
                answer.responses.add(response_txn=_run(store, next(inner)))
            case _:
                raise AssertionError("an empty operation passed the checks")
    return answer


# --- compares


def _holds(store: Store, compare: pb.Compare) -> bool:
    items = store.select(compare.key, compare.range_end)
    if not items:
        # The wire cannot tell a missing value from an empty one, so that a missing key compares to none.
        return compare.target != pb.Compare.VALUE and _compares(compare, pb.KeyValue())
    return all(_compares(compare, item) for item in items)


_TARGETS: dict[int, Callable[[pb.KeyValue, pb.Compare], tuple[Any, Any]]] = {
    pb.Compare.VERSION: lambda item, compare: (item.version, compare.version),
    pb.Compare.CREATE: lambda item, compare: (item.create_revision, compare.create_revision),
    pb.Compare.MOD: lambda item, compare: (item.mod_revision, compare.mod_revision),
    pb.Compare.VALUE: lambda item, compare: (item.value, compare.value),
    pb.Compare.LEASE: lambda item, compare: (item.lease, compare.lease),
}


def _compares(compare: pb.Compare, item: pb.KeyValue) -> bool:
    target = _TARGETS.get(compare.target)
    actual, wanted = target(item, compare) if target else (0, 0)
    order = int(actual > wanted) - int(actual < wanted)
    match compare.result:
        case pb.Compare.EQUAL:
            return order == 0
        case pb.Compare.NOT_EQUAL:
            return order != 0
        case pb.Compare.GREATER:
            return order > 0
        case pb.Compare.LESS:
            return order < 0
        case _:
            return True


# --- checks


@dataclass
class _Writes:
    """What a branch writes: no key may be put twice, or put and deleted, in one revision."""

    puts: set[bytes] = field(default_factory=set[bytes])
    deletes: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])

    def add(self, other: _Writes) -> None:
        """Add those of another part of the same branch; raises Refusal if they collide."""
        if self.puts & other.puts or self._hits(other.puts) or other._hits(self.puts):
            raise bad_request("duplicate key given in txn request")
        self.merge(other)

    def merge(self, other: _Writes) -> None:
        """Add those of the other branch, of which only one is done."""
        self.puts |= other.puts
        self.deletes += other.deletes

    def _hits(self, keys: set[bytes]) -> bool:
        return any(covers(first, end, key) for first, end in self.deletes for key in keys)


def _check(request: pb.TxnRequest, depth: int = 0) -> _Writes:
    """What can be said without the store's content; both branches are checked."""
    if max(len(request.compare), len(request.success), len(request.failure)) > MAX_OPERATIONS:
        raise bad_request("too many operations in txn request")
    if depth > MAX_DEPTH:
        raise bad_request(f"txn request is nested more than {MAX_DEPTH} deep")
    if any(not compare.key for compare in request.compare):
        raise bad_request("key is not provided")
    writes = _check_branch(request.success, depth)
    writes.merge(_check_branch(request.failure, depth))
    return writes


def _check_branch(operations: Iterable[pb.RequestOp], depth: int) -> _Writes:
    writes = _Writes()
    for op in operations:
        match op.WhichOneof("request"):
            case "request_put":
                Store.check_put(op.request_put)
                writes.add(_Writes(puts={op.request_put.key}))
            case "request_delete_range":
                Store.check_delete(op.request_delete_range)
                request = op.request_delete_range
                writes.add(_Writes(deletes=[(request.key, request.range_end)]))
            case "request_txn":
                writes.add(_check(op.request_txn, depth + 1))
            case "request_range":
                Store.check_range(op.request_range)
            case _:
                raise bad_request("key not found")
    return writes


def _check_now(store: Store, plan: _Plan) -> None:
    """What depends on the store's content, of the branches that will be done."""
    inner = iter(plan.inner)
    for op in plan.operations:
        if op.HasField("request_put"):
            store.check_put_now(op.request_put)
        elif op.HasField("request_range"):
            store.check_range_now(op.request_range)
        elif op.HasField("request_txn"):
            _check_now(store, next(inner))
