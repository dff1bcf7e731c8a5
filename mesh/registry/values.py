"""What operators write of models in etcd: a message as JSON at `<prefix><model>`.

A model's name may hold slashes; the whole rest of the key is the name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from mesh.errors import MeshError, invalid
from mesh.log import kv
from mesh.registry.client import EtcdClient
from mesh.registry.mirror import mirror

log = logging.getLogger(__name__)

Value = TypeVar("Value", bound=Message)


def encode_value(value: Message) -> bytes:
    """One line of JSON."""
    return json_format.MessageToJson(value, preserving_proto_field_name=True, indent=None).encode()


def decode_value(value: bytes, kind: type[Value], check: Callable[[Value], None]) -> Value:
    """Read a value; fields of newer versions are ignored. Raises MeshError if it is none, or if `check` does."""
    try:
        found = json_format.Parse(value, kind(), ignore_unknown_fields=True)
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        name = kind.DESCRIPTOR.name.lower()
        raise invalid(name, f"not {'an' if name[0] in 'aeiou' else 'a'} {name}: {error}") from None
    check(found)
    return found


async def watch_values(
    client: EtcdClient,
    prefix: str,
    decode: Callable[[bytes], Value],
    on_value: Callable[[str, Value | None], None],
) -> None:
    """Call `on_value(model, value)` for each value and each change of one (None: gone), for ever.

    What `decode` refuses is logged and skipped: what was known of that model before stays.
    """

    def on_change(key: str, value: bytes | None) -> None:
        try:
            found = None if value is None else decode(value)
        except MeshError as error:
            log.warning("skipped a key of the registry", extra=kv(key=key, why=error.message))
            return
        on_value(key.removeprefix(prefix), found)

    await mirror(client, prefix, on_change)
