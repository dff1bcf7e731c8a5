"""How commands reach a worker's AdminService."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mesh import wire
from mesh.cli.etcd import EtcdFlags
from mesh.config import option
from mesh.join import CallProof, JoinToken
from mesh.v1.admin_pb2_grpc import AdminServiceStub


@dataclass(frozen=True)
class RegistryConfig(EtcdFlags):
    """Where the registry is, and how its workers are spoken to."""

    tls_ca: Path | None = option(None, "PEM file of the authority of the workers' certificates.")
    tls_cert: Path | None = option(None, "PEM file of the certificate to present to workers.")
    tls_key: Path | None = option(None, "PEM file of that certificate's key.")
    join_token: str | None = option(
        None, "Secret that the mesh's gateways and workers share; better given by the environment.", secret=True
    )


@asynccontextmanager
async def admin(config: RegistryConfig, address: str) -> AsyncGenerator[AdminServiceStub]:
    """The service of the worker at an address."""
    tls = wire.Tls(config.tls_ca, config.tls_cert, config.tls_key)
    proofs = [CallProof(JoinToken(config.join_token))] if config.join_token is not None else []
    async with wire.channel(address, tls=tls if tls != wire.Tls() else None, interceptors=proofs) as channel:
        yield AdminServiceStub(channel)
