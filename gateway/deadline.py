"""The header x-deadline-ms: how long a client can use the answer, in milliseconds from its request on."""

from __future__ import annotations

from mesh.errors import invalid

HEADER = "x-deadline-ms"
MOST = 2**32 - 1


def deadline_seconds(given: str) -> float:
    """The header's value in seconds. Raises MeshError (invalid_request)."""
    text = given.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and 1 <= int(text) <= MOST):
        raise invalid(HEADER, f"'{HEADER}' must be a whole number of milliseconds from 1 to {MOST}, not '{given[:64]}'")
    return int(text) / 1000
