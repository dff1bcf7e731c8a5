"""How a generation is kept on its worker for a client that may come back."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

_TAG_BYTES = 6
NOWHERE = bytes(_TAG_BYTES)


def tag(text: str) -> bytes:
    """A short stand-in for a name, six bytes."""
    return blake2b(text.encode(), digest_size=_TAG_BYTES).digest()


@dataclass(frozen=True, slots=True)
class Keeping:
    """`key` names the generation on the worker, for `seconds` after its client is gone; None: it is not kept.

    Of an answer that was begun before, `model` is the tag of the fingerprint that began it, and `worker` that of the
    worker where it may be kept.
    """

    key: bytes | None
    seconds: float
    model: bytes = NOWHERE
    worker: bytes = NOWHERE
