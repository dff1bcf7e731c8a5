"""Values by name under a prefix of the registry, as aliases and routes are: listed, set and removed from here."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import Message

from mesh.cli.etcd import EtcdFlags
from mesh.errors import invalid
from mesh.registry import EtcdClient, encode_value, prefix_end, probe


@dataclass(frozen=True)
class Values:
    """The values under a prefix; `param` is the argument that names one, and `unnamed` says that it is empty.

    All raise MeshError.
    """

    prefix: str
    param: str
    unnamed: str

    async def listed(self, flags: EtcdFlags) -> list[tuple[str, bytes]]:
        """Names and values, in the order of names."""
        prefix = self.prefix.encode()
        await probe(flags.etcd_options(), self.prefix)
        async with EtcdClient(flags.etcd_options()) as etcd:
            found = (await etcd.range(prefix, prefix_end(prefix))).kvs
        return [(item.key.decode(errors="backslashreplace").removeprefix(self.prefix), item.value) for item in found]

    async def put(self, flags: EtcdFlags, name: str, value: Message) -> None:
        """Set a value, in place of the one before."""
        key = self._key(name)
        await probe(flags.etcd_options(), self.prefix, write=True)
        async with EtcdClient(flags.etcd_options()) as etcd:
            await etcd.put(key, encode_value(value))

    async def remove(self, flags: EtcdFlags, name: str) -> bool:
        """Take a value away; returns whether there was one."""
        key = self._key(name)
        await probe(flags.etcd_options(), self.prefix, write=True)
        async with EtcdClient(flags.etcd_options()) as etcd:
            return await etcd.delete_range(key) > 0

    def _key(self, name: str) -> bytes:
        if not name:
            raise invalid(self.param, self.unnamed)
        return (self.prefix + name).encode()
