"""`python .ci/reference/errors.py`: prints docs/errors.md, from the table of errors."""

from __future__ import annotations

import sys
from typing import Final

from gateway.errors import ANTHROPIC_STATUS, HTTP_ERRORS
from mesh.errors import ErrorKind

HEAD: Final = """# Errors

Written by `make docs` from the code; a test sees to it that it is current.

Each error has a `code` that does not change. On HTTP it is in the body, in OpenAI's shape or, on Anthropic's routes, in
Anthropic's, where the type depends on the status:

```json
{"error": {"message": "...", "type": "invalid_request_error", "param": "temperature", "code": "invalid_request"}}
```

On gRPC it is the `reason` of a `google.rpc.ErrorInfo` in the status' details, with `param` and `retry_after` as its
metadata. In a stream that has begun, it is the last event, and no `[DONE]` follows. The message names the field, the
limit and the value, and may be shown to people.

**Another worker**: whether the gateway gives the same request to another worker before a client sees the error.
**Ask again**: whether the same request can succeed later; where an answer has `Retry-After`, after that many seconds.
Cancelling is no error.
"""

# What happened, and whether the same request can succeed later.
MEANINGS: Final[dict[ErrorKind, tuple[str, str]]] = {
    ErrorKind.INVALID_REQUEST: ("A field has a value that it cannot have; `param` names it.", "no"),
    ErrorKind.CONTEXT_LENGTH_EXCEEDED: ("The prompt leaves no room in the model's context.", "no"),
    ErrorKind.PREVIOUS_NOT_FOUND: ("The store has no response `previous_response_id`, or has it no more.", "no"),
    ErrorKind.UNSUPPORTED: ("The field is understood, but no worker of this model can honour it.", "no"),
    ErrorKind.UNAUTHORIZED: (
        "The other side has not shown that it belongs to the mesh (join token, etcd's password).",
        "no",
    ),
    ErrorKind.INVALID_API_KEY: ("There is no API key in the request, or it is unknown, revoked or expired.", "no"),
    ErrorKind.FORBIDDEN: ("The key may not do this, or a provider withholds the answer.", "no"),
    ErrorKind.MODEL_NOT_FOUND: (
        "Nobody serves a model of this name, or the key may not use it.",
        "when a worker serves it",
    ),
    ErrorKind.NOT_FOUND: ("There is nothing with this id, or it belongs to another key.", "no"),
    ErrorKind.PAYLOAD_TOO_LARGE: ("The body, or the answer that it asks for, is larger than the limit.", "no"),
    ErrorKind.RATE_LIMIT_EXCEEDED: ("A limit of the key: requests, tokens, or requests at a time.", "yes"),
    ErrorKind.INSUFFICIENT_QUOTA: ("The key's token budget is spent.", "no"),
    ErrorKind.OVERLOADED: ("No worker has had room for as long as the queue lets requests wait.", "yes"),
    ErrorKind.ENGINE_FAILED: ("The engine failed; the worker's log has the cause under the request's id.", "perhaps"),
    ErrorKind.WORKER_LOST: ("The worker died, or answered no more, and no other one could go on.", "yes"),
    ErrorKind.DRAINING: ("The worker is about to end and takes no new requests.", "yes"),
    ErrorKind.WRONG_WORKER: ("Another process answers at the worker's address.", "yes"),
    ErrorKind.WRONG_MODEL: ("The worker's model is another than the one that it registered, or that began.", "yes"),
    ErrorKind.PROTOCOL_ERROR: ("Every worker that was asked sent tokens twice, out of order, or too few.", "perhaps"),
    ErrorKind.QUARANTINED: ("Workers died under this request; its content is refused for some minutes.", "no"),
    ErrorKind.NO_WORKER: ("No worker of this model is there, and none has come while the request was held.", "yes"),
    ErrorKind.STORE_UNAVAILABLE: ("What keeps responses and files cannot be used; `store: false` does without.", "yes"),
    ErrorKind.DEADLINE_EXCEEDED: ("The client's own deadline passed before the answer was complete.", "with more time"),
    ErrorKind.TAKEN_OVER: ("The client goes on with this answer over another connection.", "no"),
}


def page() -> str:
    """The whole page."""
    lines = [HEAD, "## By code\n", "| code | HTTP | gRPC | another worker | ask again | meaning |"]
    lines.append("| :-- | :-- | :-- | :-- | :-- | :-- |")
    for kind in ErrorKind:
        spec = kind.value
        meaning, again = MEANINGS[kind]
        elsewhere = "yes" if spec.retry_elsewhere else "no"
        lines.append(
            f"| `{spec.code}` | {spec.http_status} | `{spec.grpc_status}` | {elsewhere} | {again} | {meaning} |"
        )
    lines += ["", "## Of HTTP itself\n", "| code | HTTP | type |", "| :-- | :-- | :-- |"]
    lines += [f"| `{code}` | {status} | `{kind}` |" for status, (kind, code) in sorted(HTTP_ERRORS.items())]
    lines += ["", "## On Anthropic's routes\n", "The same statuses, with these exceptions:\n"]
    lines += [f"- `{code}` is a {status}." for code, status in ANTHROPIC_STATUS.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(page() + "\n")
