"""Transactions of the embedded registry: compare, choose a branch, do it in one revision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mesh.etcd.v1 import etcd_pb2 as pb
from mesh.registry.embedded.refusal import bad_request
from mesh.registry.embedded.store import Store, covers

# As etcd's default limit; each level of nesting has what the level above left of it.
MAX_OPERATIONS = 128


def run(store: Store, request: pb.TxnRequest) -> pb.TxnResponse:
    """Run a transaction; raises Refusal, before any change, if a part of it cannot be done."""
    _check(request)
    _writes(request.success)
    _writes(request.failure)
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
    answer = pb.TxnResponse(succeeded=plan.succeeded, header=pb.ResponseHeader())  # empty on inner ones, as etcd's is
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


def _check(request: pb.TxnRequest, allowed: int = MAX_OPERATIONS) -> None:
    """What can be said of each part alone, without the store's content; both branches are checked."""
    operations = max(len(request.compare), len(request.success), len(request.failure))
    if operations > allowed:
        raise bad_request("too many operations in txn request")
    if any(not compare.key for compare in request.compare):
        raise bad_request("key is not provided")
    for op in (*request.success, *request.failure):
        match op.WhichOneof("request"):
            case "request_range":
                Store.check_range(op.request_range)
            case "request_put":
                Store.check_put(op.request_put)
            case "request_delete_range":
                Store.check_delete(op.request_delete_range)
            case "request_txn":
                _check(op.request_txn, allowed - operations)
            case _:
                raise bad_request("key not found")


@dataclass
class _Writes:
    """What a branch writes: no key may be put twice, or put and deleted, in one revision."""

    puts: set[bytes] = field(default_factory=set[bytes])
    deletes: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])

    def put(self, keys: set[bytes]) -> None:
        """Add keys that are put; raises Refusal if they are written already."""
        deleted = any(covers(first, end, key) for first, end in self.deletes for key in keys)
        if deleted or self.puts & keys:
            raise bad_request("duplicate key given in txn request")
        self.puts |= keys


def _writes(operations: Iterable[pb.RequestOp]) -> _Writes:
    """What a branch writes; raises Refusal if two of its parts write the same key.

    Looks in etcd's order, which lets one case pass: a put in an inner transaction, a delete in a later one.
    """
    writes = _Writes()
    for delete in (op.request_delete_range for op in operations if op.HasField("request_delete_range")):
        writes.deletes.append((delete.key, delete.range_end))
    for inner in (op.request_txn for op in operations if op.HasField("request_txn")):
        success, failure = _writes(inner.success), _writes(inner.failure)
        writes.put(success.puts)
        writes.put(failure.puts - success.puts)  # only one of the two branches is done
        writes.deletes += success.deletes + failure.deletes
    for put in (op.request_put for op in operations if op.HasField("request_put")):
        writes.put({put.key})
    return writes


def _check_now(store: Store, plan: _Plan) -> None:
    """What depends on the store's content, of the branches that will be done: all writes first, as etcd does."""
    operations = list(_flat(plan))
    for op in operations:
        if op.HasField("request_put"):
            store.check_put_now(op.request_put)
    for op in operations:
        if op.HasField("request_range"):
            store.check_range_now(op.request_range)


def _flat(plan: _Plan) -> Iterator[pb.RequestOp]:
    inner = iter(plan.inner)
    for op in plan.operations:
        if op.HasField("request_txn"):
            yield from _flat(next(inner))
        else:
            yield op
