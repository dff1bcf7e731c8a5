"""Keys in a file, for one machine without an etcd: any number of processes of it may share the file.

keys.json          {"keys": [...]}, written by `mesh ctl keys`, reread by gateways within a second
keys.json.usage    {"<id>": {"requests": 1, "tokens": 17}}, written by gateways
keys.json.lock     held while either is written
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from mesh.errors import ErrorKind, MeshError, invalid
from mesh.files import versions
from mesh.keys.key import Key, Usage, decode_key
from mesh.keys.store import Listener
from mesh.log import kv

log = logging.getLogger(__name__)
T = TypeVar("T")

_POLL_SECONDS = 0.5


class _Keys(msgspec.Struct):
    keys: list[msgspec.Raw] = []


class FileKeys:
    """The store in files."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._usage_path = path.with_name(path.name + ".usage")
        self._lock_path = path.with_name(path.name + ".lock")

    def check(self) -> None:
        """Raise MeshError if the keys cannot be read."""
        if not self._path.exists():
            raise invalid("keys_file", f"there is no {self._path}; `mesh ctl keys create` makes it")
        self._read_keys()

    async def list(self) -> list[tuple[Key, Usage]]:
        """See Store."""
        usage = self._read_usage()
        return [(key, usage.get(key_id, Usage())) for key_id, key in sorted(self._read_keys().items())]

    async def create(self, key: Key) -> None:
        """See Store."""
        await asyncio.to_thread(self._change_keys, lambda keys: keys.update({key.id: key}))

    async def revoke(self, key_id: str) -> bool:
        """See Store."""
        return await asyncio.to_thread(self._revoke, key_id)

    async def add_usage(self, key_id: str, usage: Usage) -> None:
        """See Store."""
        await asyncio.to_thread(self._add_usage, key_id, usage)

    async def follow(self, listener: Listener) -> None:
        """See Store. A file that cannot be read changes nothing."""
        keys: dict[str, Key] = {}
        seen: object = None
        while True:
            now = versions((self._path, self._usage_path))
            if now != seen:
                seen = now
                try:
                    keys = self._tell(listener, keys)
                except MeshError as error:
                    log.warning("the keys cannot be read, going on with those before", extra=kv(why=error.message))
            await asyncio.sleep(_POLL_SECONDS)

    def _tell(self, listener: Listener, before: Mapping[str, Key]) -> dict[str, Key]:
        keys, usage = self._read_keys(), self._read_usage()
        for key_id, total in usage.items():
            listener.on_usage(key_id, total)
        for key_id in before.keys() - keys.keys():
            listener.on_key(key_id, None)
        for key_id, key in keys.items():
            if before.get(key_id) != key:
                listener.on_key(key_id, key)
        listener.on_loaded()
        return keys

    def _revoke(self, key_id: str) -> bool:
        found = self._change_keys(lambda keys: keys.pop(key_id, None)) is not None
        with self._locked():
            usage = self._read_usage()
            if usage.pop(key_id, None) is not None:
                _write(self._usage_path, usage)
        return found

    def _add_usage(self, key_id: str, usage: Usage) -> None:
        with self._locked():
            if key_id in self._read_keys():
                total = self._read_usage()
                total[key_id] = total.get(key_id, Usage()) + usage
                _write(self._usage_path, total)

    def _change_keys(self, change: Callable[[dict[str, Key]], T]) -> T:
        with self._locked():
            keys = self._read_keys()
            result = change(keys)
            _write(self._path, {"keys": list(keys.values())})
        return result

    def _read_keys(self) -> dict[str, Key]:
        found = _read(self._path, _Keys) or _Keys()
        keys = [decode_key(bytes(each)) for each in found.keys]
        return {key.id: key for key in keys}

    def _read_usage(self) -> dict[str, Usage]:
        return _read(self._usage_path, dict[str, Usage]) or {}

    @contextmanager
    def _locked(self) -> Generator[None]:
        try:
            with self._lock_path.open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise _unusable(self._path, error) from None


def _read(path: Path, kind: type[T]) -> T | None:
    """The content, or None if there is no such file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise invalid("keys_file", f"{path} is no file of keys: {error}") from None


def _write(path: Path, content: object) -> None:
    """Replace it as a whole, readable for its owner alone."""
    draft = path.with_name(path.name + ".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _unusable(path: Path, error: OSError) -> MeshError:
    return MeshError(ErrorKind.INVALID_REQUEST, f"cannot use {path}: {error.strerror}", param="keys_file")
