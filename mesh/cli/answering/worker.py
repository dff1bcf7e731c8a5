"""A worker asked straight over gRPC, past any gateway."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from mesh.cli.answering.wire import WireEndpoint
from mesh.client import Limits, SyncMeshClient, Tls

# One worker is asked: nobody else can go on where it broke off.
_LIMITS = Limits(patience=2.0, attempts=1)


def worker_endpoint(
    address: str, models: Sequence[str] = (), *, tls: Tls | None = None, join_token: str | None = None
) -> WireEndpoint:
    """The Endpoint of the worker at host:port. `models`: their names as far as they are known."""
    stack = ExitStack()
    client = SyncMeshClient(workers=[address], tls=tls, join_token=join_token, limits=_LIMITS, name="mesh ctl")
    stack.enter_context(client)
    return WireEndpoint(f"worker {address}", client.run, lambda: list(models), stack.close)
