"""`mesh ctl alias`: names of models that stand for others, for all gateways."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from mesh.cli.etcd import EtcdFlags
from mesh.cli.show import show
from mesh.cli.values import Values
from mesh.config import option
from mesh.errors import MeshError, invalid
from mesh.registry import ALIASES_PREFIX, check_alias, decode_alias
from mesh.v1.registry_pb2 import Alias, Share

_ALIASES = Values(ALIASES_PREFIX, "name", "the alias must have a name")


@dataclass(frozen=True)
class ListConfig(EtcdFlags):
    """List the names that stand for models."""


@dataclass(frozen=True)
class RemoveConfig(EtcdFlags):
    """Let a name stand for no other model any more."""

    name: str = option("", "The name.", positional=True)


@dataclass(frozen=True)
class SetConfig(RemoveConfig):
    """Let a name stand for a model, in place of what it stood for before. It may be the model's own name."""

    model: str = option("", "The model that requests for the name go to.", positional=True)
    split: tuple[str, ...] = option(
        (), "MODEL=SHARE, repeated: this model takes so much of the requests instead, such as other=0.1."
    )
    fallback: tuple[str, ...] = option(
        (), "Model to try where the one before has no worker, or none with room in time; repeated, in order."
    )
    fallback_after: float | None = option(
        None, "Seconds that a request waits for room before the next model is tried. Default: 2.", low=0.001, high=3600
    )
    shadow: tuple[str, ...] = option(
        (), "MODEL=SHARE, repeated: this model gets a copy of so much of the requests; its answers are dropped."
    )


async def _list(config: ListConfig) -> None:
    table = Table(box=None, header_style="bold")
    for name in ("name", "model", "split", "fallbacks", "shadows"):
        table.add_column(name)
    for name, value in await _ALIASES.listed(config):
        table.add_row(name, *_cells(value))
    show(table if table.row_count else "no aliases")


def _cells(value: bytes) -> tuple[str, ...]:
    try:
        alias = decode_alias(value)
    except MeshError as error:
        return (error.message,)
    fallbacks = ", ".join(alias.fallbacks)
    if alias.HasField("fallback_after"):
        fallbacks += f" after {alias.fallback_after:g} s"
    return alias.model, _shown(alias.split), fallbacks, _shown(alias.shadows)


def _shown(shares: Sequence[Share]) -> str:
    return ", ".join(f"{each.model} {each.share:.4g}" for each in shares)


async def _set(config: SetConfig) -> None:
    alias = Alias(
        model=config.model,
        split=_shares("split", config.split),
        fallbacks=config.fallback,
        fallback_after=config.fallback_after,
        shadows=_shares("shadow", config.shadow),
    )
    check_alias(alias)
    await _ALIASES.put(config, config.name, alias)
    print(f"{config.name} stands for {config.model}")


def _shares(flag: str, given: Sequence[str]) -> Iterator[Share]:
    for each in given:
        model, _, share = each.rpartition("=")
        try:
            yield Share(model=model, share=float(share))
        except ValueError:
            raise invalid(flag, f"--{flag} must be MODEL=SHARE, such as other=0.1, not '{each}'") from None


async def _remove(config: RemoveConfig) -> None:
    if not await _ALIASES.remove(config, config.name):
        raise invalid("name", f"'{config.name}' is no alias")
    print(f"{config.name} stands for nothing any more")


COMMANDS: dict[str, tuple[type[EtcdFlags], Callable[[Any], Coroutine[Any, Any, None]]]] = {
    "alias list": (ListConfig, _list),
    "alias set": (SetConfig, _set),
    "alias remove": (RemoveConfig, _remove),
}
