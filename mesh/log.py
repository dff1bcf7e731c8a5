"""Logging: one handler on stderr; readable on a terminal, one JSON object a line elsewhere.

MESH_LOG=text|json overrides the choice, MESH_LOG_LEVEL sets the level (INFO). Extra facts are key/value pairs:

    log.info("request finished", extra=kv(model=name, tokens=17))

The request id of the current task, once bound with `bind_request_id`, is on every line.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, ClassVar

from mesh.config import fail

_always: dict[str, Any] = {}
_request_id: ContextVar[str] = ContextVar("request_id", default="")


def bind_request_id(request_id: str) -> None:
    """Put this id on every line that the current task logs from now on."""
    _request_id.set(request_id)


def kv(**facts: Any) -> dict[str, Any]:
    """Facts for the `extra` argument of a log call."""
    return {"facts": facts}


def silence_grpc() -> None:
    """Keep gRPC's C core from writing lines of its own to stderr, unless GRPC_VERBOSITY asks for them.

    What it would say (a port is taken, a handshake failed, a peer went away) is in our errors and logs. Call it
    before gRPC is imported, which reads it then.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


_KINDS = ("json", "text")
_LEVELS = ("debug", "info", "warning", "error", "critical")


class _Told(logging.Handler):
    """Hands the lines to somebody else than a stream."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(self.format(record))


def setup(service: str, tell: Callable[[str], None] | None = None, **facts: Any) -> None:
    """Install the one handler on the root logger. Call once per process, from its `main`; `facts` are on each line.

    The lines go to `tell` if it is given, else to stderr. Ends the process if the environment asks for what is not.
    """
    choice = _chosen(service, "MESH_LOG", "", _KINDS)
    level = _chosen(service, "MESH_LOG_LEVEL", "info", _LEVELS)
    as_json = choice == "json" or (choice != "text" and not sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr) if tell is None else _Told(tell)
    handler.setFormatter(JsonFormatter(service) if as_json else TextFormatter(colour=sys.stderr.isatty()))
    _always.update(facts)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _chosen(service: str, variable: str, default: str, known: Sequence[str]) -> str:
    given = os.environ.get(variable, "").strip().lower() or default
    if given not in (default, *known):
        fail(f"mesh-{service}", f"{variable} must be one of {', '.join(known)}, not '{given}'")
    return given


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    facts: dict[str, Any] = {**_always, **getattr(record, "facts", {})}
    request_id = _request_id.get()
    if request_id:
        facts.setdefault("request_id", request_id)
    return facts


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, service, logger, message, facts, traceback."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self.service = service

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "service": self.service,
            "logger": record.name,
            "message": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """`12:03:44 INFO  message  key=value`, with the level in colour on a terminal."""

    COLOURS: ClassVar = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self.colour = colour

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = f"{record.levelname:<7}"
        if self.colour and record.levelname in self.COLOURS:
            level = f"\x1b[{self.COLOURS[record.levelname]}m{level}\x1b[0m"
        facts = "".join(f"  {key}={value}" for key, value in _facts(record).items())
        line = f"{clock} {level} {record.getMessage()}{facts}"
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")
