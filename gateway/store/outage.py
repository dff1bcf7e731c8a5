"""What clients are told of a store that cannot be used: no more than that. Where it is, and why, the log says."""

from __future__ import annotations

import logging

from mesh.errors import ErrorKind, MeshError
from mesh.log import kv

log = logging.getLogger(__name__)


def outage(what: str, why: str) -> MeshError:
    """Log why, with paths and addresses; returns the error that may leave."""
    log.error("a store cannot be used", extra=kv(which=what, why=why))
    text = f"the {what} of this gateway cannot be used at the moment; its log says why"
    return MeshError(ErrorKind.STORE_UNAVAILABLE, text)
