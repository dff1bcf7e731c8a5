"""The door of the HTTP server: every request but those of open routes needs a key, and is held to its limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from quart import Quart, Response, request
from werkzeug.datastructures import Headers

from gateway.access.account import Account
from gateway.access.book import Book
from gateway.exchange import Exchange, current
from mesh.errors import ErrorKind, MeshError

_METRICS = "/metrics"


@dataclass(slots=True)
class Permit:
    """What the key of a request allows it; `gateway.exchange.Permit` says what the routes need of it."""

    account: Account
    exchange: Exchange
    clock: Callable[[], float]

    def allows(self, model: str) -> bool:
        """Whether it may use the model."""
        return self.account.key.allows(model)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that it may use; none are all."""
        return self.account.key.models

    @property
    def priority(self) -> int | None:
        """The most urgent priority that it may ask for."""
        return self.account.key.priority

    def end(self) -> None:
        """The request has ended."""
        self.account.release(self.exchange, self.clock())


class Guard:
    """Stands before all routes of an application.

    `open_routes` are paths that need no key. With `shared_cache` requests of different keys share cached prefixes.
    """

    def __init__(
        self,
        book: Book,
        open_routes: Collection[str],
        *,
        shared_cache: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._book = book
        self._open = frozenset(open_routes)
        self._shared_cache = shared_cache
        self._clock = clock

    def attach(self, app: Quart) -> None:
        """Guard an application."""
        app.before_request(self._before_request)
        app.after_request(self._after_request)

    @property
    def ready(self) -> bool:
        """Whether the keys are known."""
        return self._book.loaded

    def take_over(self, exchange: Exchange) -> None:
        """Let an exchange go on that another gateway has let begin. Raises invalid_api_key if its key is not valid any
        more."""
        account = self._book.account(exchange.tenant)
        exchange.permit = Permit(account, exchange, self._clock)
        account.take_over(exchange)

    async def _before_request(self) -> None:
        exchange = current()
        if exchange.path in self._open:
            return
        inside = exchange.inside
        account = self._book.account(inside.tenant) if inside is not None else self._authenticate()
        exchange.tenant = account.key.id
        if not self._shared_cache:
            exchange.cache_scope = account.key.id
        exchange.permit = Permit(account, exchange, self._clock)
        if exchange.path == _METRICS and not account.key.metrics:
            raise MeshError(ErrorKind.FORBIDDEN, f"this key may not read {_METRICS}")
        if exchange.method == "POST":
            account.admit(exchange, self._clock())

    def _authenticate(self) -> Account:
        return self._book.authenticate(given_key(request.headers))

    async def _after_request(self, response: Response) -> Response:
        permit = current().permit
        if isinstance(permit, Permit):
            response.headers.update(permit.account.headers(self._clock()))
        if response.status_code == 401:
            response.headers["www-authenticate"] = "Bearer"
        return response


def given_key(headers: Headers) -> str | None:
    """The key that a request brings, as OpenAI's clients send it or as Anthropic's do; None if it brings none."""
    scheme, _, text = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and text.strip():
        return text.strip()
    return headers.get("x-api-key", "").strip() or None
