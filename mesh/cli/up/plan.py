"""What one `mesh up` is to run: processes, in the order of their start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from mesh.cli.up.settings import UpConfig
from mesh.registry.options import EtcdOptions

Kind = Literal["gateway", "worker", "webui"]


@dataclass(frozen=True)
class Service:
    """One process.

    argv: the flags of its command, without a worker's id, which is new with each start. env: secrets, which `ps` must
    not show, and which devices there are. address: URL or host:port by which this machine reaches it; empty for a port
    that is not known before. models: names that it serves.
    """

    kind: Kind
    name: str
    argv: tuple[str, ...]
    address: str = ""
    models: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)

    @property
    def module(self) -> str:
        """What `python -m` runs."""
        return "mesh.worker" if self.kind == "worker" else self.kind


@dataclass(frozen=True)
class Plan:
    """A mesh.

    registry_port: of the registry in the process of `mesh up`; None with an etcd. aliases: name → model.
    """

    registry: EtcdOptions
    registry_port: int | None
    services: tuple[Service, ...]
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])

    def of(self, kind: Kind) -> list[Service]:
        """The processes of a kind."""
        return [service for service in self.services if service.kind == kind]

    @property
    def models(self) -> list[str]:
        """The names that are served, each once, in order."""
        return list(dict.fromkeys(name for service in self.services for name in service.models))

    @property
    def default_name(self) -> str:
        """What the mesh is called if nobody says: a port is only taken once on a machine."""
        gateways = self.of("gateway")
        return gateways[0].address.rpartition(":")[2] if gateways else "workers"


@dataclass(frozen=True)
class Model:
    """What is to be served, and under which name. adapters: as name=path."""

    name: str
    path: str | None
    adapters: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """What clients can ask for."""
        return [self.name, *(adapter.partition("=")[0] for adapter in self.adapters)]


Load = tuple[Model, ...]
"""The models that one worker is to serve."""


def plan_of(config: UpConfig) -> Plan:
    """What the flags say."""
    registry = config.etcd or f"127.0.0.1:{config.registry_port}"
    gateway = local_url(config.host, config.port)
    services = [
        Service(
            kind="gateway",
            name="gateway",
            argv=("--host", config.host, "--port", str(config.port), "--etcd", registry),
            address=gateway,
        ),
        *_workers(config, registry),
    ]
    if config.webui:
        argv = ("--host", config.host, "--port", str(config.webui_port), "--gateway", gateway)
        services.append(Service("webui", "webui", argv, local_url(config.host, config.webui_port)))
    return Plan(
        registry=EtcdOptions.from_url(registry),
        registry_port=None if config.etcd else config.registry_port,
        services=tuple(services),
    )


def _workers(config: UpConfig, registry: str) -> Iterator[Service]:
    loads = [load for load in loads_of(config) for _ in range(config.workers)]
    for index, load in enumerate(loads):
        port = config.worker_port + index if config.worker_port else 0
        argv = ["--engine", config.engine, "--etcd", registry, "--host", config.worker_host, "--port", str(port)]
        for model in load:
            argv += ["--model-name", model.name]
            argv += ["--model-path", model.path] if model.path is not None else []
            argv += [word for adapter in model.adapters for word in ("--lora", adapter)]
        yield Service(
            kind="worker",
            name=f"worker-{index + 1}",
            argv=tuple(argv),
            address=f"{config.worker_host}:{port}" if port else "",
            models=tuple(name for model in load for name in model.names),
        )


def loads_of(config: UpConfig) -> list[Load]:
    """What is to be served, by worker. Models that people name get workers of their own, of which one may fail."""
    if config.engine == "scripted":
        return [(Model("scripted", None),)]
    if config.model_path:
        first, *others = [Model(model_name(path), path) for path in config.model_path]
        return [(replace(first, adapters=config.lora),), *((model,) for model in others)]
    from mesh.demo import MODELS, model_path

    first, *others = [Model(name, str(model_path(name))) for name in MODELS]
    if config.lora:  # which a worker takes for one model only
        return [(replace(first, adapters=config.lora),), tuple(others)]
    return [(first, *others)]


def model_name(path: str) -> str:
    """As the worker would name it: the last part, of a file without its ending."""
    return (Path(path).name or Path(path).resolve().name).removesuffix(".gguf")


def local_url(host: str, port: int, scheme: str = "http") -> str:
    """Where this machine reaches a server that listens on `host`."""
    local = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    return f"{scheme}://{f'[{local}]' if local.count(':') > 1 and '[' not in local else local}:{port}"
