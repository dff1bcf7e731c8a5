"""Flags of the engine whose model a server with vLLM's gRPC service runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mesh.config import ConfigError, option
from mesh.wire import Tls
from mesh.worker.flags import Flags


@dataclass(frozen=True)
class UpstreamFlags(Flags):
    """Where the server is, and how it is spoken to."""

    engines = frozenset({"vllm-grpc"})

    upstream: str | None = option(None, "vllm-grpc: host:port of the server that runs the model, `vllm serve --grpc`.")
    upstream_tls: bool = option(False, "vllm-grpc: speak TLS to it.")
    upstream_ca: Path | None = option(
        None, "vllm-grpc: PEM file of the authority that signed its certificate. Default: those of the system."
    )
    upstream_cert: Path | None = option(None, "vllm-grpc: PEM file of the certificate to present to it.")
    upstream_key: Path | None = option(None, "vllm-grpc: PEM file of that certificate's key.")

    def __post_init__(self) -> None:
        if (self.upstream_cert is None) != (self.upstream_key is None):
            raise ConfigError("--upstream-cert and --upstream-key must be given together")
        if (self.upstream_ca or self.upstream_cert) and not self.upstream_tls:
            raise ConfigError("--upstream-ca and --upstream-cert need --upstream-tls")
        if self.upstream is not None:
            host, _, port = self.upstream.rpartition(":")
            if not host or "/" in host or not port.isdecimal():
                raise ConfigError(f"--upstream must be host:port, not '{self.upstream}'")
        super().__post_init__()

    @property
    def upstream_security(self) -> Tls | None:
        """TLS towards the server; None speaks plain text."""
        return Tls(self.upstream_ca, self.upstream_cert, self.upstream_key) if self.upstream_tls else None
