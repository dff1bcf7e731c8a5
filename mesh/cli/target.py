"""Whom a command sends requests to: a gateway, or one worker past it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from mesh.cli.admin import RegistryConfig
from mesh.cli.answering.endpoint import Endpoint
from mesh.cli.client import GatewayClient
from mesh.cli.workers import find_worker
from mesh.config import ConfigError, option
from mesh.errors import ErrorKind, MeshError, invalid
from mesh.wire import Tls

_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class TargetConfig(RegistryConfig):
    """The flags of such commands."""

    url: str = option(_URL, "Where the gateway is.")
    api_key: str | None = option(None, "Key for the gateway; better given by the environment.", secret=True)
    worker: str | None = option(
        None, "Worker to be asked over gRPC, past the gateway: its id in the registry, or its host:port."
    )
    model: str | None = option(
        None, "Which model. Default: the first one that is served; of a worker by host:port, its only one."
    )

    def __post_init__(self) -> None:
        if self.worker is not None and (self.url != _URL or self.api_key is not None):
            raise ConfigError("--url and --api-key have no effect with --worker, which is asked past the gateway")


def open_target(config: TargetConfig) -> tuple[Endpoint, str]:
    """The endpoint, to be closed, and the model. Raises MeshError."""
    if config.worker is not None:
        return _worker(config, config.worker)
    client = GatewayClient(config.url, config.api_key)
    try:
        models = client.models()
    except ConnectionError as error:
        raise MeshError(ErrorKind.WORKER_LOST, f"no gateway answers at {config.url} ({error})") from None
    return client, _chosen(config.model, models, f"the gateway at {config.url}")


def _worker(config: TargetConfig, name: str) -> tuple[Endpoint, str]:
    from mesh.cli.answering.worker import worker_endpoint  # takes a moment to import

    record = asyncio.run(find_worker(config.etcd_options(), name))
    models = [model.name for model in sorted(record.models, key=lambda model: bool(model.base))]
    # Where only the address is known, the worker itself says what it does not serve.
    model = _chosen(config.model, models, f"worker '{name}'") if models else config.model or ""
    tls = Tls(config.tls_ca, config.tls_cert, config.tls_key)
    secure = tls if tls != Tls() else None
    return worker_endpoint(record.address, models, tls=secure, join_token=config.join_token), model


def _chosen(wanted: str | None, models: list[str], who: str) -> str:
    if not models:
        raise MeshError(ErrorKind.NO_WORKER, f"{who} serves no model yet")
    if wanted is not None and wanted not in models:
        raise invalid("model", f"model '{wanted}' is not served by {who}; there are: {', '.join(models)}")
    return wanted or models[0]
