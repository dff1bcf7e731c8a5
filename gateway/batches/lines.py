"""The lines of an input file of a batch: one request each, in JSON."""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.batches.shapes import InputError
from gateway.openai.schema import decode
from mesh.errors import MeshError

MOST_LINES: Final = 50_000
MOST_ERRORS: Final = 100
_ID_LENGTH: Final = 512


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """A request."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class _Body(msgspec.Struct):
    """What must be known of a body before it is sent; the route sees to the rest."""

    model: str
    stream: bool | None = None
    background: bool | None = None


_lines = msgspec.json.Decoder(Line)
_bodies = msgspec.json.Decoder(_Body)


class Checker:
    """Checks the lines of one input in order, for requests to one endpoint."""

    def __init__(self, endpoint: str) -> None:
        self.total = 0
        self.errors: list[InputError] = []
        self._endpoint = endpoint
        self._ids: set[str] = set()

    @property
    def full(self) -> bool:
        """Whether enough is wrong."""
        return len(self.errors) >= MOST_ERRORS

    def add(self, number: int, text: bytes) -> None:
        """The next line."""
        self.total += 1
        try:
            line = decode(_lines, text)
            self._check(number, line)
            self._check_body(number, decode(_bodies, bytes(line.body)))
        except MeshError as error:
            self._wrong(number, "invalid_request" if error.param != "body" else "invalid_json_line", error.message)

    def finish(self) -> None:
        """There is no other line."""
        if not self.total and not self.errors:
            self.errors.append(InputError("empty_file", "the input file has no lines"))
        if self.total > MOST_LINES:
            text = f"the input file must have at most {MOST_LINES} lines, not {self.total}"
            self.errors.append(InputError("too_many_tasks", text))

    def _check(self, number: int, line: Line) -> None:
        if not 1 <= len(line.custom_id) <= _ID_LENGTH:
            text = f"'custom_id' must have 1 to {_ID_LENGTH} characters, not {len(line.custom_id)}"
            self._wrong(number, "invalid_custom_id", text, "custom_id")
        elif line.custom_id in self._ids:
            text = f"'custom_id' is '{line.custom_id[:100]}', as another line's"
            self._wrong(number, "duplicate_custom_id", text, "custom_id")
        self._ids.add(line.custom_id)
        if line.method != "POST":
            self._wrong(number, "invalid_method", f"'method' must be POST, not '{line.method[:20]}'", "method")
        if line.url != self._endpoint:
            text = f"'url' must be the batch's endpoint, {self._endpoint}, not '{line.url[:100]}'"
            self._wrong(number, "invalid_url", text, "url")

    def _check_body(self, number: int, body: _Body) -> None:
        for name in ("stream", "background"):
            if getattr(body, name):
                self._wrong(number, "invalid_request", f"'body.{name}' must be false in a batch", f"body.{name}")

    def _wrong(self, number: int, code: str, message: str, param: str | None = None) -> None:
        self.errors.append(InputError(code, message, param, number))


def read_line(text: bytes) -> Line:
    """A line that was checked."""
    return _lines.decode(text)
