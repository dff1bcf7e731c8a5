"""The flags of `mesh up`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from mesh.config import ConfigError, option
from mesh.worker.flags.adapters import AdapterFlags

# What a file of settings does not say, since it is about this run and not about the mesh.
_BESIDE_A_FILE = frozenset({"config", "name", "state_dir", "log_dir", "detach", "echo"})


@dataclass(frozen=True)
class UpConfig:
    """Run a whole mesh on this machine: registry, gateway and workers.

    All other settings of gateway, workers and web pages are taken from the environment, as MESH_GATEWAY_...,
    MESH_WORKER_... and MESH_WEBUI_..., or from a file: --config mesh.yaml.
    """

    config: Path | None = option(
        None,
        "YAML file that says what is to run, instead of the flags below: several models, replicas, gateways. "
        "`mesh config check FILE` checks it.",
        metavar="FILE",
    )
    detach: bool = option(False, "Return once everything runs, which then goes on until `mesh down`.")
    name: str | None = option(
        None, "What `mesh status` and `mesh down` call this mesh. Default: the port of its first gateway."
    )
    log_dir: Path | None = option(
        None, "Folder for a log of each process. Default: logs in the mesh's folder below --state-dir."
    )
    state_dir: Path | None = option(
        None,
        "Folder in which the running meshes of this user are noted. Default: inference-mesh/up in the user's state "
        "directory (~/.local/state).",
    )
    echo: bool = option(True, "Show here what the processes log; it is in their logs in any case.")

    model_path: tuple[str, ...] = option(
        (),
        "Folder with a Hugging Face model, its name on the hub, or a *.gguf file; may be repeated. Default: the two "
        "demonstration models, in one worker.",
    )
    lora: tuple[str, ...] = option(
        (),
        "LoRA adapter of the first model, as name=path; may be repeated. One of the demonstration model comes along: "
        "--lora sailor=mesh-demo-sailor.",
    )
    workers: int = option(1, "Workers per model.", low=1, high=64)
    engine: Literal["transformers", "scripted"] = option("transformers", "What the workers run, as in mesh-worker.")
    host: str = option("127.0.0.1", "Address of the HTTP server.")
    port: int = option(8000, "Port of the HTTP server.", low=1, high=65535)
    worker_host: str = option("127.0.0.1", "Address of the workers' gRPC servers.")
    worker_port: int = option(50051, "Port of the first worker, counted up for the others; 0 picks free ones.", low=0)
    etcd: str | None = option(None, "URL(s) of etcd, comma separated. Default: a registry in this process.")
    registry_port: int = option(12379, "Port of the registry in this process.", low=1, high=65535)
    webui: bool = option(False, "Serve the arena's web pages too.")
    webui_port: int = option(7860, "Port of the web pages.", low=1, high=65535)

    def __post_init__(self) -> None:
        if self.config is not None:
            self._refuse_flags_beside_a_file()
        if self.engine == "scripted" and self.model_path:
            raise ConfigError("--model-path has no effect with --engine scripted, which makes up its answers")
        if self.engine == "scripted" and self.lora:
            raise ConfigError("--lora has no effect with --engine scripted, which makes up its answers")
        AdapterFlags(lora=self.lora)  # says what is wrong with them
        # The demonstration models share a worker, but for adapters, which are for one model.
        loads = len(self.model_path) or (2 if self.lora else 1)
        last = self.worker_port + self.workers * loads - 1
        if last > 65535:
            raise ConfigError(f"--worker-port and --workers need the ports up to {last}, the last one is 65535")

    def _refuse_flags_beside_a_file(self) -> None:
        for spec in fields(self):
            if spec.name not in _BESIDE_A_FILE and getattr(self, spec.name) != spec.default:
                flag = spec.name.replace("_", "-")
                raise ConfigError(f"--{flag} has no effect with --config {self.config}, which says what is to run")
