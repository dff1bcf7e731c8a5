"""The only room that knows etcd: who is in the mesh, kept there by the workers and mirrored by the gateways.

worker:   announcer = Announcer(options, record); announcer.start(); ...; announcer.stop()
gateway:  async with EtcdClient(options) as etcd: await watch_workers(etcd, on_worker)
no etcd:  async with EmbeddedRegistry() as registry: options = EtcdOptions.from_url(registry.address)
"""

from mesh.registry.aliases import ALIASES_PREFIX, check_alias, decode_alias, watch_aliases
from mesh.registry.announce import Announcer
from mesh.registry.client import EtcdCalls, EtcdClient, prefix_end, probe
from mesh.registry.embedded import EmbeddedRegistry
from mesh.registry.errors import EtcdError, EtcdUnavailable
from mesh.registry.mirror import mirror
from mesh.registry.options import EtcdOptions, check_advertised
from mesh.registry.records import WORKERS_PREFIX, decode, encode, key_for, watch_workers
from mesh.registry.routes import ROUTES_PREFIX, check_route, decode_route, watch_routes
from mesh.registry.values import encode_value

__all__ = [
    "ALIASES_PREFIX",
    "ROUTES_PREFIX",
    "WORKERS_PREFIX",
    "Announcer",
    "EmbeddedRegistry",
    "EtcdCalls",
    "EtcdClient",
    "EtcdError",
    "EtcdOptions",
    "EtcdUnavailable",
    "check_advertised",
    "check_alias",
    "check_route",
    "decode",
    "decode_alias",
    "decode_route",
    "encode",
    "encode_value",
    "key_for",
    "mirror",
    "prefix_end",
    "probe",
    "watch_aliases",
    "watch_routes",
    "watch_workers",
]
