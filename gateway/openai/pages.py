"""Parts of lists: which one the query of a request asks for, and the answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

import msgspec
from quart import Response, request

from gateway.store.shapes import Entry, Page
from mesh.errors import invalid

MOST: Final = 100
# Statuses of errors of routes that need the store.
OF_STORE: Final = (404, 503)


class Listing(msgspec.Struct):
    """A part of a list; `first_id` and `last_id` are null in an empty one."""

    data: list[Any]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: str = "list"


class Deleted(msgspec.Struct):
    """Something is kept no longer."""

    id: str
    object: str
    deleted: bool = True


class PageQuery(msgspec.Struct):
    """The query of a request for a list."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST)] = 20
    after: str | None = None
    order: Literal["asc", "desc"] = "desc"


def page_asked(*, order: str = "desc", limit: int = 20, most: int = MOST) -> Page:
    """What `limit`, `after` and `order` of the query say; `order` and `limit` are the defaults, `most` is the largest
    limit."""
    wanted = request.args.get("limit", str(limit))
    if not (wanted.isascii() and wanted.isdigit() and len(wanted) < 10 and 1 <= int(wanted) <= most):
        raise invalid("limit", f"'limit' must be a whole number from 1 to {most}, not '{wanted[:64]}'")
    given = request.args.get("order", order)
    if given not in ("asc", "desc"):
        raise invalid("order", f"'order' must be asc or desc, not '{given[:64]}'")
    return Page(int(wanted), request.args.get("after"), given == "desc")


def listing(entries: Iterable[Entry], *, more: bool) -> Response:
    """The answer."""
    found = list(entries)
    data = [msgspec.Raw(entry.body) for entry in found]
    first, last = (found[0].id, found[-1].id) if found else (None, None)
    return json_response(Listing(data, first, last, more))


def json_response(body: object) -> Response:
    """An answer in JSON."""
    return Response(msgspec.json.encode(body), content_type="application/json")
