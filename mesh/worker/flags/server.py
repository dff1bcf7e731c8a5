"""Flags of every worker: what it is called, where it listens, where it is announced, how much it takes at once."""

from __future__ import annotations

import re
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mesh.config import ConfigError, option
from mesh.join import LEAST_CHARACTERS, JoinToken
from mesh.registry.options import EtcdOptions, check_advertised
from mesh.wire import Tls
from mesh.worker.flags import Flags

# Where a gateway without --etcd serves the registry of its machine.
LOCAL_REGISTRY = "127.0.0.1:12379"
_METRICS_OFFSET = 1000


@dataclass(frozen=True)
class ServerFlags(Flags):
    """What all engines share."""

    model_name: tuple[str, ...] = option(
        (),
        "Name under which the model is served, repeated like --model-path in the same order. "
        "Default: the last part of the path.",
    )
    engine: Literal["transformers", "vllm", "vllm-grpc", "remote", "scripted"] = option(
        "transformers",
        "What runs the model: transformers; vllm; vllm-grpc, a vLLM server behind gRPC; remote, a provider behind "
        "HTTP; or scripted, which makes up its answers, for tests.",
    )

    host: str = option("127.0.0.1", "Address to listen on.")
    port: int = option(50051, "Port of the gRPC server; 0 picks a free one.", low=0, high=65535)
    advertise: str | None = option(
        None, "host:port under which others reach this worker. Default: the address that it listens on."
    )
    tls_cert: Path | None = option(None, "PEM file of the gRPC server's certificate.")
    tls_key: Path | None = option(None, "PEM file of its key.")
    tls_ca: Path | None = option(None, "PEM file of the authority whose certificates clients must present.")

    join_token: str | None = option(
        None,
        "Secret that the gateways and workers of a mesh share, at least 16 characters; better given by the "
        "environment. Nobody without it can use this worker.",
        secret=True,
    )

    also_speak: tuple[Literal["vllm"], ...] = option(
        (),
        "Another gRPC service on the same port: vllm, vLLM's VllmEngine, by which gateways for vLLM such as smg use "
        "this worker.",
    )

    register: bool = option(True, "Announce this worker in the registry.")
    etcd: str | None = option(
        None, f"URL(s) of etcd, comma separated. Default: the registry of this machine's gateway, {LOCAL_REGISTRY}."
    )
    etcd_ca: Path | None = option(None, "PEM file of the authority that signed etcd's certificate.")
    etcd_cert: Path | None = option(None, "PEM file of the certificate to present to etcd.")
    etcd_key: Path | None = option(None, "PEM file of that certificate's key.")
    etcd_user: str | None = option(None, "User name at etcd.")
    etcd_password: str | None = option(None, "Password at etcd; better given by the environment.", secret=True)
    worker_id: str | None = option(None, "Unique name in the mesh. Default: host name, port and four random letters.")
    zone: str = option("", "Failure domain or place; gateways of the same zone prefer this worker.")
    weight: float = option(
        1.0, "How much of the traffic this worker takes beside others: with 2 twice as much.", low=0.001, high=1000
    )
    label: tuple[str, ...] = option((), "Note for people and tools in the registry, as key=value; may be repeated.")
    ttl: int = option(30, "Seconds after which the registry forgets a worker that has died.", low=2, high=3600)

    metrics: bool = option(True, "Serve /metrics over HTTP.")
    metrics_port: int | None = option(
        None,
        f"Its port; 0 picks a free one. Default: the gRPC port plus {_METRICS_OFFSET}, or a free one with --port 0.",
        low=0,
        high=65535,
    )
    otlp_endpoint: str | None = option(
        None, "URL of an OpenTelemetry collector (OTLP over gRPC) that takes traces, such as http://127.0.0.1:4317."
    )
    drain_timeout: float = option(
        30.0, "Seconds that live streams have to end or to move when the worker is stopped.", low=0
    )

    max_rows: int = option(64, "Most sequences in one step.", low=1)
    max_waiting: int = option(1024, "Most sequences that wait for a place; beyond, requests are refused.", low=1)
    context_length: int | None = option(
        None, "Most tokens of prompt and output together. Default: the model's own.", low=1
    )

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("--tls-cert and --tls-key must be given together")
        if self.tls_ca is not None and self.tls_cert is None:
            raise ConfigError("--tls-ca needs --tls-cert and --tls-key")
        if self.join_token is not None and len(self.join_token) < LEAST_CHARACTERS:
            raise ConfigError(
                f"--join-token must have at least {LEAST_CHARACTERS} characters, not {len(self.join_token)}"
            )
        if self.also_speak and self.join_token is not None and self.tls_ca is None:
            raise ConfigError(
                "--also-speak vllm with --join-token needs --tls-ca: its clients know no join token, and prove by a "
                "certificate that they may use this worker"
            )
        for label in self.label:
            if not re.fullmatch(r"[^=]+=.*", label):
                raise ConfigError(f"--label must be key=value, not '{label}'")
        super().__post_init__()

    @property
    def labels(self) -> dict[str, str]:
        """The labels by key."""
        return dict(label.split("=", 1) for label in self.label)

    @property
    def tls(self) -> Tls | None:
        """TLS of the gRPC server; None speaks plain text."""
        return Tls(self.tls_ca, self.tls_cert, self.tls_key) if self.tls_cert is not None else None

    @property
    def join(self) -> JoinToken | None:
        """The mesh's join token, if it has one."""
        return JoinToken(self.join_token) if self.join_token is not None else None

    def etcd_options(self) -> EtcdOptions:
        """Where the registry is; raises MeshError."""
        return EtcdOptions.from_url(
            self.etcd or LOCAL_REGISTRY,
            ca=self.etcd_ca,
            cert=self.etcd_cert,
            key=self.etcd_key,
            user=self.etcd_user,
            password=self.etcd_password,
        )

    def advertised(self, port: int) -> str:
        """The address for the registry, given the port that was bound; raises MeshError if nobody could reach it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        address = self.advertise or f"{host}:{port}"
        if self.register:
            check_advertised(address, self.etcd_options())
        return address

    def id_or_default(self) -> str:
        """The worker's id: as given, else a new one."""
        letters = "".join(secrets.choice("bcdfghjkmnpqrstvwxz") for _ in range(4))
        parts = (socket.gethostname(), str(self.port or ""), letters)
        return self.worker_id or "-".join(part for part in parts if part)

    def metrics_port_or_default(self) -> int:
        """The port of /metrics; 0 picks a free one."""
        if self.metrics_port is not None:
            return self.metrics_port
        wanted = self.port + _METRICS_OFFSET
        return wanted if self.port and wanted <= 65535 else 0
