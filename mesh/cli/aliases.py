"""`mesh ctl alias`: names of models that stand for others, for all gateways."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from mesh.cli.etcd import EtcdFlags
from mesh.cli.show import show
from mesh.config import option
from mesh.errors import MeshError, invalid
from mesh.registry import ALIASES_PREFIX, EtcdClient, check_alias, decode_alias, encode_value, prefix_end, probe
from mesh.v1.registry_pb2 import Alias, Share


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
    prefix = ALIASES_PREFIX.encode()
    await probe(config.etcd_options(), ALIASES_PREFIX)
    async with EtcdClient(config.etcd_options()) as etcd:
        listed = (await etcd.range(prefix, prefix_end(prefix))).kvs
    for item in listed:
        table.add_row(item.key.decode(errors="backslashreplace").removeprefix(ALIASES_PREFIX), *_cells(item.value))
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
    key = _key(config.name)
    check_alias(alias)
    await probe(config.etcd_options(), ALIASES_PREFIX, write=True)
    async with EtcdClient(config.etcd_options()) as etcd:
        await etcd.put(key, encode_value(alias))
    print(f"{config.name} stands for {config.model}")


def _shares(flag: str, given: Sequence[str]) -> Iterator[Share]:
    for each in given:
        model, _, share = each.rpartition("=")
        try:
            yield Share(model=model, share=float(share))
        except ValueError:
            raise invalid(flag, f"--{flag} must be MODEL=SHARE, such as other=0.1, not '{each}'") from None


async def _remove(config: RemoveConfig) -> None:
    key = _key(config.name)
    await probe(config.etcd_options(), ALIASES_PREFIX, write=True)
    async with EtcdClient(config.etcd_options()) as etcd:
        gone = await etcd.delete_range(key)
    if not gone:
        raise invalid("name", f"'{config.name}' is no alias")
    print(f"{config.name} stands for nothing any more")


def _key(name: str) -> bytes:
    if not name:
        raise invalid("name", "the alias must have a name")
    return (ALIASES_PREFIX + name).encode()


COMMANDS: dict[str, tuple[type[EtcdFlags], Callable[[Any], Coroutine[Any, Any, None]]]] = {
    "alias list": (ListConfig, _list),
    "alias set": (SetConfig, _set),
    "alias remove": (RemoveConfig, _remove),
}
