"""`mesh ctl routes`: how the requests for a model are spread over its workers, for all gateways."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from mesh.cli.etcd import EtcdFlags
from mesh.cli.show import show
from mesh.cli.values import Values
from mesh.config import option
from mesh.errors import MeshError, invalid
from mesh.policy import MAX_HEDGE_AFTER, MAX_LOAD_FACTOR, PolicyName
from mesh.registry import ROUTES_PREFIX, decode_route
from mesh.v1.registry_pb2 import Route

_ROUTES = Values(ROUTES_PREFIX, "model", "a model must be named")
_DEFAULT = "(the gateway's)"


@dataclass(frozen=True)
class ListConfig(EtcdFlags):
    """List the models whose balancing is set."""


@dataclass(frozen=True)
class UnsetConfig(EtcdFlags):
    """Let a model be balanced as each gateway's flags say."""

    model: str = option("", "The model's name.", positional=True)


@dataclass(frozen=True)
class SetConfig(UnsetConfig):
    """Set how a model is balanced, in place of what was set before."""

    policy: PolicyName | None = option(None, "As mesh-gateway --policy. Default: that.")
    load_factor: float | None = option(
        None, "As mesh-gateway --load-factor. Default: that.", low=1, high=MAX_LOAD_FACTOR
    )
    any_zone: bool = option(False, "Leave zones out of account.")
    hedge_after: float | None = option(
        None, "As mesh-gateway --hedge-after. Default: that.", low=0, high=MAX_HEDGE_AFTER
    )


async def _list(config: ListConfig) -> None:
    table = Table(box=None, header_style="bold")
    for name in ("model", "policy", "load factor", "zones", "hedge after"):
        table.add_column(name)
    for name, value in await _ROUTES.listed(config):
        table.add_row(name, *_cells(value))
    show(table if table.row_count else "no routes")


def _cells(value: bytes) -> tuple[str, ...]:
    try:
        route = decode_route(value)
    except MeshError as error:
        return (error.message,)
    factor = f"{route.load_factor:g}" if route.HasField("load_factor") else _DEFAULT
    hedge = f"{route.hedge_after:g} s" if route.HasField("hedge_after") else _DEFAULT
    return route.policy or _DEFAULT, factor, "any" if route.any_zone else "own first", hedge


async def _set(config: SetConfig) -> None:
    route = Route(
        policy=config.policy or "",
        load_factor=config.load_factor,
        any_zone=config.any_zone,
        hedge_after=config.hedge_after,
    )
    await _ROUTES.put(config, config.model, route)
    print(f"{config.model} is balanced by {config.policy or 'the policy of each gateway'}")


async def _unset(config: UnsetConfig) -> None:
    if not await _ROUTES.remove(config, config.model):
        raise invalid("model", f"nothing is set for the model '{config.model}'")
    print(f"{config.model} is balanced by the policy of each gateway")


COMMANDS: dict[str, tuple[type[EtcdFlags], Callable[[Any], Coroutine[Any, Any, None]]]] = {
    "routes list": (ListConfig, _list),
    "routes set": (SetConfig, _set),
    "routes unset": (UnsetConfig, _unset),
}
