"""Files and batches as OpenAI's API has them, their keys in its order. Times are seconds since 1970."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from gateway.batches.spent import BatchUsage

# What an uploaded file may be for, and what our own are for.
Purpose = Literal["assistants", "batch", "evals", "fine-tune", "user_data", "vision"]
BATCH: Final = "batch"
OUTPUT: Final = "batch_output"
ENDPOINTS: Final = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/moderations",
)
ENDED: Final = ("completed", "failed", "expired", "cancelled")


class FileObject(msgspec.Struct, kw_only=True):
    """A file."""

    id: str
    object: str = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: str
    status: str = "processed"
    status_details: None = None


class LineError(msgspec.Struct):
    """Why a line of a batch has no response."""

    code: str
    message: str


class InputError(msgspec.Struct):
    """What is wrong with the input of a batch; `line` counts from 1."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class InputErrors(msgspec.Struct):
    """All that is wrong, or the first of it."""

    data: list[InputError]
    object: str = "list"


class Counts(msgspec.Struct):
    """Requests of a batch."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class ExpiresAfter(msgspec.Struct, forbid_unknown_fields=True):
    """How long a file is kept: seconds, from an hour to 30 days."""

    anchor: Literal["created_at"]
    seconds: int


class BatchObject(msgspec.Struct, kw_only=True):
    """A batch, and what its output files are to be like."""

    id: str
    object: str = "batch"
    endpoint: str
    errors: InputErrors | None = None
    input_file_id: str
    completion_window: str
    status: str = "validating"
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: Counts = msgspec.field(default_factory=Counts)
    metadata: dict[str, str] | None = None
    usage: BatchUsage = msgspec.field(default_factory=BatchUsage)
    # Told if it was asked for: OpenAI has no such field here.
    output_expires_after: ExpiresAfter | msgspec.UnsetType = msgspec.UNSET


class BatchRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Body of POST /v1/batches."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = None


class LineResponse(msgspec.Struct):
    """The answer to a line."""

    status_code: int
    request_id: str
    body: Any


class OutputLine(msgspec.Struct):
    """A line of an output or error file: the answer to the line with that `custom_id`, or why there is none."""

    id: str
    custom_id: str
    response: LineResponse | None
    error: LineError | None
