"""What a connection may do before anybody has asked anything: how long a request's head may take, how large it may be,
and how many connections come from one address. Bodies have limits of their own in the application.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    RequestHeaderFieldsTooLarge,
    RequestTimeout,
    TooManyRequests,
)

from gateway import errors
from mesh.log import kv

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """`head_seconds` from the first byte of a request (or from the start of a connection) to the end of its headers,
    `head_bytes` for its first line and headers, `per_address` connections at a time (0 is no limit)."""

    head_seconds: float = 10.0
    head_bytes: int = 32 * 1024
    per_address: int = 0


class LimitedHttp(HttpToolsProtocol):
    """One connection of the HTTP server, held to `limits`. Each server has a class of its own."""

    limits: ClassVar = ConnectionLimits()
    addresses: ClassVar[Counter[str]] = Counter()
    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_body = False
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        self.addresses[address] += 1
        if 0 < self.limits.per_address < self.addresses[address]:
            most = self.limits.per_address
            self._refuse(TooManyRequests(f"at most {most} connections at a time may come from one address"))
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        super().connection_lost(exc)
        self._stop_timer()
        address = self.client[0] if self.client else ""
        self.addresses[address] -= 1
        if not self.addresses[address]:
            del self.addresses[address]

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._refused:
            return
        super().data_received(data)
        if self._timer is None and not self._answering:
            # Bytes that begin no request, or the rest of a body that was refused: uvicorn would wait for ever.
            self._expect_head()
        if self._timer is not None and not self._in_body:
            self._head_bytes += len(data)
            self._check_head(self._head_bytes)

    def on_message_begin(self) -> None:
        """See httptools."""
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._stop_timer()
        self._head_bytes = 0
        self._in_body = True
        if not self._refused:
            self._check_head(len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers))
        if not self._refused:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """See httptools."""
        self._in_body = False
        if not self._refused:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is answered like every other error."""
        self._refuse(BadRequest("this is no valid HTTP/1.1 request"))

    @property
    def _answering(self) -> bool:
        """Whether an answer is owed or under way."""
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None before the first request
        return cycle is not None and not cycle.response_complete

    def _expect_head(self) -> None:
        if self._timer is None and not self._refused:
            self._timer = self.loop.call_later(self.limits.head_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        self._timer = None
        if self._answering:
            self._expect_head()  # of the next request, while the one before is answered
        else:
            self._refuse(RequestTimeout(f"the headers must be there within {self.limits.head_seconds:g} s"))

    def _check_head(self, size: int) -> None:
        if size > self.limits.head_bytes:
            self._refuse(
                RequestHeaderFieldsTooLarge(f"the headers must have at most {self.limits.head_bytes} bytes in all")
            )

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, error: HTTPException) -> None:
        """Answer and close. An answer that is under way is cut: nothing can be put into its middle."""
        self._refused = True
        self._stop_timer()
        self._unset_keepalive_if_required()
        answer = errors.answer(error)
        log.debug("connection refused", extra=kv(peer=self.client, why=answer.code))
        if not self.transport.is_closing():
            if not self._answering:
                headers = {**answer.headers, "content-length": str(len(answer.body)), "connection": "close"}
                lines = b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items())
                self.transport.write(STATUS_LINE[answer.status] + lines + b"\r\n" + answer.body)
            self.transport.close()
