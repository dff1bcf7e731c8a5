"""One route of the HTTP API, told once: the application, its OpenAPI document and docs/api.md follow from it.

A new route is an `Operation` beside its view, which it puts into a blueprint, and a row in `gateway.openapi.table`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from quart import Blueprint, Response

from gateway.errors import Envelope

Range = tuple[str, float, float]
"""A field of a body, or of a query, with its least and its largest value."""
View = TypeVar("View", bound=Callable[..., Awaitable[Response]])

JSON = "application/json"
SSE = "text/event-stream"
# What any request may get, whatever its route; and what else there is for those with a body, for those that name a
# model, and for those that go to a worker.
_ALWAYS = (400, 401, 403, 429, 500)
_OF_BODIES = (408, 413, 415)
UNKNOWN = (404,)
OF_WORKERS = (404, 409, 422, 502, 503, 504)
_PLACE = re.compile(r"<(?:(?P<kind>\w+):)?(?P<name>\w+)>")


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A method of a route.

    `path`: as Quart has it, such as /v1/models/<path:model_id>;
    `summary`: a short sentence for people; `group`: the API that it belongs to;
    `body`, `query`: msgspec types of what it takes, `takes`: the media type of the body;
    `answer`: the msgspec type of what it answers with `status`, or None for an answer without such a type, `gives`:
    the media type of it;
    `events`: the types of the data of the server-sent events of an answer that is streamed, none if none is;
    `also`: further statuses that are answered with the same type (204: with nothing), and what they say;
    `errors`: statuses of errors beyond those that each route has; `error`: the type of their body;
    `ranges`, `values`: limits of fields that their types do not tell, as numbers and in words;
    `ignored`: fields that are accepted and change nothing.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    summary: str
    group: str
    body: type | None = None
    takes: str = JSON
    query: type | None = None
    answer: Any = None
    gives: str = JSON
    status: int = 200
    events: tuple[Any, ...] = ()
    also: Mapping[int, str] = field(default_factory=dict[int, str])
    errors: Sequence[int] = ()
    error: type = Envelope
    ranges: Sequence[Range] = ()
    values: Mapping[str, str] = field(default_factory=dict[str, str])
    ignored: Sequence[str] = ()

    @property
    def url(self) -> str:
        """The path as OpenAPI has it."""
        return _PLACE.sub(r"{\g<name>}", self.path)

    @property
    def places(self) -> list[str]:
        """The names in the path."""
        return [found["name"] for found in _PLACE.finditer(self.path)]

    @property
    def failures(self) -> list[int]:
        """The statuses of its errors."""
        of_body = _OF_BODIES if self.body is not None else ()
        return sorted({*_ALWAYS, *of_body, *self.errors})

    def on(self, routes: Blueprint) -> Callable[[View], View]:
        """Decorates the view."""
        return routes.route(self.path, methods=[self.method])
