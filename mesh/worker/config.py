"""Every setting of the worker. Each field is a flag and an environment variable (see mesh/config.py)."""

from __future__ import annotations

import re
import secrets
import socket
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from mesh.config import ConfigError, option
from mesh.registry.options import EtcdOptions, check_advertised
from mesh.wire import Tls

# Where a gateway without --etcd serves the registry of its machine.
LOCAL_REGISTRY = "127.0.0.1:12379"
_METRICS_OFFSET = 1000
# Options that only the transformers engine has; those of the scripted one begin with this prefix.
_SCRIPT = "script_"
_TRANSFORMERS = frozenset(
    (
        *("model_path", "revision", "trust_remote_code", "device", "dtype", "threads", "chat_template"),
        "allow_chat_templates",
        *("step_tokens", "kv_cache_tokens", "kv_cache_share", "page_size", "prefix_cache", "packed"),
    )
)


@dataclass(frozen=True)
class WorkerConfig:
    """Serve a language model to the mesh over gRPC."""

    model_path: str | None = option(None, "Folder with a Hugging Face model, or its name on the hub.")
    model_name: str | None = option(None, "Name under which the model is served. Default: the last part of the path.")
    engine: Literal["transformers", "scripted"] = option(
        "transformers", "What runs the model: transformers, or scripted, which makes up its answers, for tests."
    )

    host: str = option("127.0.0.1", "Address to listen on.")
    port: int = option(50051, "Port of the gRPC server; 0 picks a free one.", low=0, high=65535)
    advertise: str | None = option(
        None, "host:port under which others reach this worker. Default: the address that it listens on."
    )
    tls_cert: Path | None = option(None, "PEM file of the gRPC server's certificate.")
    tls_key: Path | None = option(None, "PEM file of its key.")
    tls_ca: Path | None = option(None, "PEM file of the authority whose certificates clients must present.")

    register: bool = option(True, "Announce this worker in the registry.")
    etcd: str | None = option(
        None, f"URL(s) of etcd, comma separated. Default: the registry of this machine's gateway, {LOCAL_REGISTRY}."
    )
    etcd_ca: Path | None = option(None, "PEM file of the authority that signed etcd's certificate.")
    etcd_cert: Path | None = option(None, "PEM file of the certificate to present to etcd.")
    etcd_key: Path | None = option(None, "PEM file of that certificate's key.")
    etcd_user: str | None = option(None, "User name at etcd.")
    etcd_password: str | None = option(None, "Password at etcd; better given by the environment.")
    worker_id: str | None = option(None, "Unique name in the mesh. Default: host name, port and four random letters.")
    zone: str = option("", "Failure domain or place; gateways of the same zone prefer this worker.")
    label: tuple[str, ...] = option((), "Note for people and tools in the registry, as key=value; may be repeated.")
    ttl: int = option(30, "Seconds after which the registry forgets a worker that has died.", low=2, high=3600)

    metrics: bool = option(True, "Serve /metrics over HTTP.")
    metrics_port: int | None = option(
        None,
        f"Its port; 0 picks a free one. Default: the gRPC port plus {_METRICS_OFFSET}, or a free one with --port 0.",
        low=0,
        high=65535,
    )
    drain_timeout: float = option(
        30.0, "Seconds that live streams have to end or to move when the worker is stopped.", low=0
    )

    max_rows: int = option(64, "Most sequences in one step.", low=1)
    max_waiting: int = option(1024, "Most sequences that wait for a place; beyond, requests are refused.", low=1)
    context_length: int | None = option(
        None, "Most tokens of prompt and output together. Default: the model's own.", low=1
    )

    revision: str | None = option(None, "Revision of a model on the hub.")
    trust_remote_code: bool = option(False, "Run the Python code that comes with the model.")
    device: str = option("auto", "Where to run: auto, cpu, cuda or cuda:N.")
    dtype: str = option("auto", "Number format of the weights: auto, float32, bfloat16 or float16.")
    threads: int | None = option(None, "Threads of CPU computation. Default: the cores this process may use.", low=1)
    chat_template: Path | None = option(None, "File with a jinja chat template to use instead of the model's own.")
    allow_chat_templates: bool = option(
        False,
        "Let requests bring chat templates of their own. These are programs: one can loop without end or take all "
        "memory, so allow them only where all clients are trusted.",
    )
    step_tokens: int | None = option(None, "Most tokens computed in one step. Default: by the device.", low=1)
    kv_cache_tokens: int | None = option(
        None, "Tokens that the KV cache holds. Default: by its share of memory.", low=1
    )
    kv_cache_share: float | None = option(
        None, "Share of the free memory that the KV cache takes. Default: by the device.", low=0.001, high=1
    )
    page_size: int | None = option(None, "Tokens per page of the KV cache. Default: by the device.", low=1)
    prefix_cache: bool = option(True, "Share the KV cache of equal beginnings between requests.")
    packed: bool = option(True, "Compute all sequences in one forward pass, where the model's layers allow it.")

    script_text: str = option("words", "Scripted answers: words (made up), echo (the prompt), or the path of a text.")
    script_tokens: int = option(64, "Scripted: tokens of a made-up answer.", low=1)
    script_step_ms: float = option(0.0, "Scripted: milliseconds per step; 0 is as fast as possible.", low=0)
    script_prefill_ms: float = option(0.0, "Scripted: milliseconds before the first token.", low=0)
    script_jitter: float = option(0.0, "Scripted: by which share of it a step may be shorter or longer.", low=0, high=1)
    script_jitter_seed: int = option(0, "Scripted: seed of the jitter.")
    script_embedding_size: int = option(64, "Scripted: length of embedding vectors.", low=1)
    script_refuse: bool = option(False, "Scripted fault: refuse every request as overloaded.")
    script_fail_after: int | None = option(None, "Scripted fault: tokens after which a request breaks.", low=0)
    script_stall_after: int | None = option(None, "Scripted fault: tokens after which a row gets no more.", low=0)
    script_crash_after: int | None = option(None, "Scripted fault: tokens after which the process ends.", low=0)

    def __post_init__(self) -> None:
        if self.model_path is None and self.engine != "scripted":
            raise ConfigError("--model-path is required: a folder with a Hugging Face model, or its name on the hub")
        self._refuse_options_of_other_engines()
        if self.kv_cache_tokens is not None and self.kv_cache_share is not None:
            raise ConfigError("--kv-cache-tokens and --kv-cache-share exclude each other")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("--tls-cert and --tls-key must be given together")
        if self.tls_ca is not None and self.tls_cert is None:
            raise ConfigError("--tls-ca needs --tls-cert and --tls-key")
        for label in self.label:
            if not re.fullmatch(r"[^=]+=.*", label):
                raise ConfigError(f"--label must be key=value, not '{label}'")

    def _refuse_options_of_other_engines(self) -> None:
        for spec in fields(self):
            if _owner(spec.name) not in (None, self.engine) and getattr(self, spec.name) != spec.default:
                flag = "--" + spec.name.replace("_", "-")
                raise ConfigError(f"{flag} has no effect with --engine {self.engine}")

    @property
    def labels(self) -> dict[str, str]:
        """The labels by key."""
        return dict(label.split("=", 1) for label in self.label)

    @property
    def tls(self) -> Tls | None:
        """TLS of the gRPC server; None speaks plain text."""
        return Tls(self.tls_ca, self.tls_cert, self.tls_key) if self.tls_cert is not None else None

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


def _owner(name: str) -> str | None:
    """The engine that alone has an option; None for those of every worker."""
    if name.startswith(_SCRIPT):
        return "scripted"
    return "transformers" if name in _TRANSFORMERS else None
