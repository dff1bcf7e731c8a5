"""What operators say of models in etcd: how their requests are spread. JSON at `<prefix><model>`, as `mesh.v1.Route`.

A model's name may hold slashes; the whole rest of the key is the name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from google.protobuf import json_format

from mesh.errors import MeshError, invalid
from mesh.log import kv
from mesh.policy import MAX_LOAD_FACTOR, POLICIES
from mesh.registry.client import EtcdClient
from mesh.registry.mirror import mirror
from mesh.v1.registry_pb2 import Route

log = logging.getLogger(__name__)

ROUTES_PREFIX = "/mesh/v1/routes/"


def check_route(route: Route) -> None:
    """Raise MeshError for a policy that there is not, or a factor out of its range."""
    if route.policy and route.policy not in POLICIES:
        raise invalid("policy", f"'policy' must be one of {', '.join(POLICIES)}, not '{route.policy[:64]}'")
    if route.HasField("load_factor") and not 1 <= route.load_factor <= MAX_LOAD_FACTOR:
        raise invalid(
            "load_factor", f"'load_factor' must be between 1 and {MAX_LOAD_FACTOR:g}, not {route.load_factor}"
        )


def encode_route(route: Route) -> bytes:
    """The value of a route's key: one line of JSON."""
    return json_format.MessageToJson(route, preserving_proto_field_name=True, indent=None).encode()


def decode_route(value: bytes) -> Route:
    """Read a value; fields of newer versions are ignored. Raises MeshError if it is no route."""
    try:
        route = json_format.Parse(value, Route(), ignore_unknown_fields=True)
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise invalid("route", f"not a route: {error}") from None
    check_route(route)
    return route


async def watch_routes(
    client: EtcdClient, on_route: Callable[[str, Route | None], None], *, prefix: str = ROUTES_PREFIX
) -> None:
    """Call `on_route(model, route)` for each route and each change of one (None: gone), for ever.

    A value that is no route is logged and skipped: what was known of that model before stays.
    """

    def on_change(key: str, value: bytes | None) -> None:
        try:
            route = None if value is None else decode_route(value)
        except MeshError as error:
            log.warning("skipped a key of the registry", extra=kv(key=key, why=error.message))
            return
        on_route(key.removeprefix(prefix), route)

    await mirror(client, prefix, on_change)
