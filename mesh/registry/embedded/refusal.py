"""How the embedded registry says no: with etcd's gRPC status and etcd's sentence, which clients compare."""

from __future__ import annotations

import grpc


class Refusal(Exception):
    """A request that is refused."""

    def __init__(self, code: grpc.StatusCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = f"etcdserver: {detail}"


def bad_request(detail: str) -> Refusal:
    """An argument that cannot be."""
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, detail)


def compacted() -> Refusal:
    """A revision of which nothing is kept any more."""
    return Refusal(grpc.StatusCode.OUT_OF_RANGE, "mvcc: required revision has been compacted")


def in_future() -> Refusal:
    """A revision that is not there yet."""
    return Refusal(grpc.StatusCode.OUT_OF_RANGE, "mvcc: required revision is a future revision")


def no_lease() -> Refusal:
    """A lease that is not, or no longer, there."""
    return Refusal(grpc.StatusCode.NOT_FOUND, "requested lease not found")
