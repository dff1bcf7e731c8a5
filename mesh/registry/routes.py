"""How the requests for a model are spread over its workers, as operators say it in etcd."""

from __future__ import annotations

from collections.abc import Callable

from mesh.errors import invalid
from mesh.policy import MAX_HEDGE_AFTER, MAX_LOAD_FACTOR, POLICIES
from mesh.registry.client import EtcdClient
from mesh.registry.values import decode_value, watch_values
from mesh.v1.registry_pb2 import Route

ROUTES_PREFIX = "/mesh/v1/routes/"


def check_route(route: Route) -> None:
    """Raise MeshError for a policy that there is not, or a number out of its range."""
    if route.policy and route.policy not in POLICIES:
        raise invalid("policy", f"'policy' must be one of {', '.join(POLICIES)}, not '{route.policy[:64]}'")
    if route.HasField("load_factor") and not 1 <= route.load_factor <= MAX_LOAD_FACTOR:
        raise invalid(
            "load_factor", f"'load_factor' must be between 1 and {MAX_LOAD_FACTOR:g}, not {route.load_factor}"
        )
    if not 0 <= route.hedge_after <= MAX_HEDGE_AFTER:
        raise invalid(
            "hedge_after", f"'hedge_after' must be between 0 and {MAX_HEDGE_AFTER:g}, not {route.hedge_after}"
        )


def decode_route(value: bytes) -> Route:
    """Read a value; see `decode_value`."""
    return decode_value(value, Route, check_route)


async def watch_routes(
    client: EtcdClient, on_route: Callable[[str, Route | None], None], *, prefix: str = ROUTES_PREFIX
) -> None:
    """Call `on_route(model, route)` as `watch_values` does."""
    await watch_values(client, prefix, decode_route, on_route)
