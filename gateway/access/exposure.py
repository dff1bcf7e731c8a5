"""What a gateway that others than this machine reach must have."""

from __future__ import annotations

import logging

from gateway.config import GatewayConfig
from mesh.errors import invalid
from mesh.log import kv
from mesh.registry.options import EtcdOptions, host_of, is_loopback

log = logging.getLogger(__name__)


def check_exposure(config: GatewayConfig) -> None:
    """Refuse to listen beyond this machine without keys and TLS, unless told to. Raises MeshError."""
    if config.etcd is None and not is_loopback(config.registry_host):
        _refuse_or_warn(config, f"--registry-host {config.registry_host}", ["a registry with users: --etcd"])
    if not is_loopback(config.host):
        missing = [] if config.keyed else ["API keys: --require-keys or --keys-file"]
        missing += [] if config.tls_cert is not None else ["TLS: --tls-cert and --tls-key"]
        if missing:
            _refuse_or_warn(config, f"--host {config.host}", missing)
    if config.etcd is not None and config.join_token is None and not _is_local(config.etcd):
        log.warning("there is no join token: whoever can write to etcd can have prompts sent anywhere")


def _refuse_or_warn(config: GatewayConfig, where: str, missing: list[str]) -> None:
    wanted = " and ".join(missing)
    if not config.insecure_public:
        raise invalid(
            "host",
            f"{where} can be reached from other machines and needs {wanted}; "
            "--insecure-public (MESH_GATEWAY_INSECURE_PUBLIC=1) goes without, as behind a proxy that sees to it",
        )
    log.warning("reachable from other machines without protection", extra=kv(where=where, missing=wanted))


def _is_local(etcd: str) -> bool:
    return all(is_loopback(host_of(each)) for each in EtcdOptions.from_url(etcd).endpoints)
