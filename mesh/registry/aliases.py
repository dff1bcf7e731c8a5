"""What a name of models stands for, as operators say it in etcd."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mesh.errors import invalid
from mesh.registry.client import EtcdClient
from mesh.registry.values import decode_value, watch_values
from mesh.v1.registry_pb2 import Alias, Share

ALIASES_PREFIX = "/mesh/v1/aliases/"
MAX_MODELS = 16


def check_alias(alias: Alias) -> None:
    """Raise MeshError for an alias of nothing, shares that are none, or a model that is named twice."""
    if not alias.model:
        raise invalid("model", "an alias must name a model")
    _check_shares("split", alias.split)
    _check_shares("shadows", alias.shadows)
    total = sum(each.share for each in alias.split)
    if total > 1 + 1e-9:
        raise invalid("split", f"the shares of 'split' must be at most 1 together, not {total:g}")
    _check_names("split", [alias.model, *(each.model for each in alias.split)])
    _check_names("fallbacks", list(alias.fallbacks))
    _check_names("shadows", [each.model for each in alias.shadows])
    if alias.HasField("fallback_after") and not 0 < alias.fallback_after <= 3600:
        raise invalid(
            "fallback_after", f"'fallback_after' must be above 0 and at most 3600 seconds, not {alias.fallback_after}"
        )


def _check_shares(name: str, shares: Sequence[Share]) -> None:
    for each in shares:
        if not 0 < each.share <= 1:
            raise invalid(name, f"a share of '{name}' must be above 0 and at most 1, not {each.share}")


def _check_names(name: str, models: Sequence[str]) -> None:
    if len(models) > MAX_MODELS:
        raise invalid(name, f"'{name}' must name at most {MAX_MODELS} models, not {len(models)}")
    if not all(models) or len(set(models)) < len(models):
        raise invalid(name, f"'{name}' must name different models, not {', '.join(map(repr, models))}")


def decode_alias(value: bytes) -> Alias:
    """Read a value; see `decode_value`."""
    return decode_value(value, Alias, check_alias)


async def watch_aliases(
    client: EtcdClient, on_alias: Callable[[str, Alias | None], None], *, prefix: str = ALIASES_PREFIX
) -> None:
    """Call `on_alias(name, alias)` as `watch_values` does."""
    await watch_values(client, prefix, decode_alias, on_alias)
