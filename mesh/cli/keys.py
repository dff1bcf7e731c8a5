"""`mesh ctl keys`: make, list, show and revoke API keys."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

from mesh.cli.etcd import EtcdFlags
from mesh.cli.show import show
from mesh.config import option
from mesh.keys import EtcdKeys, FileKeys, Key, Store, Usage, new_key
from mesh.keys.key import missing
from mesh.registry.client import EtcdClient, probe

_NONE = "-"


@dataclass(frozen=True)
class KeysConfig(EtcdFlags):
    """List the API keys and what they have used."""

    keys_file: Path | None = option(None, "Keep the keys in this file, as the gateway's --keys-file; else in etcd.")
    json: bool = option(False, "Print JSON.")


@dataclass(frozen=True)
class KeyConfig(KeysConfig):
    """Show one API key."""

    key: str = option("", "The key's id.", positional=True)


@dataclass(frozen=True)
class RevokeConfig(KeyConfig):
    """Revoke an API key; gateways refuse it within a second or two."""


@dataclass(frozen=True)
class _Limits:
    """The flags that are fields of the key."""

    requests_per_minute: int | None = option(None, "Most requests a minute.", low=1)
    tokens_per_minute: int | None = option(None, "Most tokens a minute, of prompts and answers together.", low=1)
    concurrency: int | None = option(None, "Most requests under way at a time.", low=1)
    token_budget: int | None = option(None, "Most tokens over the key's whole life.", low=1)
    priority: int | None = option(
        None, "Most urgent priority that requests may ask for; lower runs earlier.", low=-100, high=100
    )
    metrics: bool = option(False, "Let it read /metrics.")


@dataclass(frozen=True)
class CreateConfig(_Limits, KeysConfig):
    """Make an API key and print it, once: only a hash of it is kept."""

    name: str = option("", "Whose key it is, for people.")
    model: tuple[str, ...] = option((), "Model that it may use, repeated. Default: all.")
    expires: str | None = option(None, "After how long it ends, as 30d, 12h or 45m. Default: never.")


async def _create(config: CreateConfig) -> None:
    limits = {spec.name: getattr(config, spec.name) for spec in fields(_Limits)}
    key, text = new_key(config.name, expires=config.expires, models=config.model, **limits)
    async with _store(config) as store:
        await store.create(key)
    if config.json:
        print(json.dumps({**_as_dict(key, Usage()), "key": text}))
    else:
        print(text)  # alone on standard output, for KEY=$(mesh ctl keys create ...)
        print(f"key {key.id} of {key.name}; this is the only time that it is shown", file=sys.stderr)


async def _list(config: KeysConfig) -> None:
    async with _store(config) as store:
        found = await store.list()
    if config.json:
        print(json.dumps([_as_dict(key, usage) for key, usage in found]))
        return
    table = Table(box=None, header_style="bold")
    for name in ("id", "name", "key", "models", "requests/min", "tokens/min", "concurrency", "tokens used", "expires"):
        table.add_column(name)
    for key, usage in found:
        table.add_row(
            *(key.id, key.name, key.shown, ", ".join(key.models) or "all", _number(key.requests_per_minute)),
            *(_number(key.tokens_per_minute), _number(key.concurrency), _used(key, usage), _expiry(key)),
        )
    show(table if found else "no keys")


async def _show(config: KeyConfig) -> None:
    async with _store(config) as store:
        found = {key.id: (key, usage) for key, usage in await store.list()}
    if config.key not in found:
        raise missing(config.key)
    facts = _as_dict(*found[config.key])
    if config.json:
        print(json.dumps(facts))
        return
    table = Table(box=None, show_header=False)
    for name, value in {**facts, "models": ", ".join(facts["models"]) or "all"}.items():
        table.add_row(name, _NONE if value is None else str(value))
    show(table)


async def _revoke(config: RevokeConfig) -> None:
    async with _store(config) as store:
        if not await store.revoke(config.key):
            raise missing(config.key)
    print(json.dumps({"id": config.key, "revoked": True}) if config.json else f"key {config.key} is revoked")


COMMANDS: dict[str, tuple[type[KeysConfig], Callable[[Any], Coroutine[Any, Any, None]]]] = {
    "keys create": (CreateConfig, _create),
    "keys list": (KeysConfig, _list),
    "keys show": (KeyConfig, _show),
    "keys revoke": (RevokeConfig, _revoke),
}


@asynccontextmanager
async def _store(config: KeysConfig) -> AsyncGenerator[Store]:
    if config.keys_file is not None:
        yield FileKeys(config.keys_file)
        return
    options = config.etcd_options()
    await probe(options, "/mesh/v1/keys/")
    async with EtcdClient(options) as client:
        yield EtcdKeys(client)


def _as_dict(key: Key, usage: Usage) -> dict[str, Any]:
    """All that is known of a key but the hash, with every limit, null where there is none."""
    facts = {name: getattr(key, name) for name in key.__struct_fields__ if name != "hash"}
    return msgspec.to_builtins({**facts, "requests": usage.requests, "tokens": usage.tokens})


def _number(value: int | None) -> str:
    return _NONE if value is None else str(value)


def _used(key: Key, usage: Usage) -> str:
    return f"{usage.tokens}" if key.token_budget is None else f"{usage.tokens} of {key.token_budget}"


def _expiry(key: Key) -> str:
    if key.expires_at is None:
        return "never"
    return f"{key.expires_at:%Y-%m-%d %H:%M}" if not key.expired(datetime.now(UTC)) else "expired"
