"""Every setting of the worker. Each field is a flag and an environment variable (see mesh/config.py)."""

from __future__ import annotations

from dataclasses import dataclass, fields

from mesh.config import ConfigError
from mesh.worker.flags import engines_of
from mesh.worker.flags.adapters import AdapterFlags
from mesh.worker.flags.batching import BatchingFlags
from mesh.worker.flags.dialect import DialectFlags
from mesh.worker.flags.embedding import EmbeddingFlags
from mesh.worker.flags.model import LoadFlags, ModelFlags
from mesh.worker.flags.remote import RemoteFlags
from mesh.worker.flags.scripted import ScriptedFlags
from mesh.worker.flags.server import ServerFlags
from mesh.worker.flags.template import TemplateFlags
from mesh.worker.flags.upstream import UpstreamFlags
from mesh.worker.flags.vllm import VllmFlags

# What differs from model to model, and can therefore not be said for several at once.
_OF_ONE_MODEL = ("revision", "gguf_file", "context_length", "pooling", "lora")


@dataclass(frozen=True)
class WorkerConfig(
    ScriptedFlags,
    RemoteFlags,
    UpstreamFlags,
    VllmFlags,
    EmbeddingFlags,
    AdapterFlags,
    BatchingFlags,
    ServerFlags,
    DialectFlags,
    LoadFlags,
    TemplateFlags,
    ModelFlags,
):
    """Serve a language model to the mesh over gRPC."""

    def __post_init__(self) -> None:
        if self.engine == "remote" and self.remote_model is None:
            raise ConfigError("--remote-model is required with --engine remote: the provider's name of the model")
        if self.engine == "vllm-grpc" and self.upstream is None:
            raise ConfigError("--upstream is required with --engine vllm-grpc: host:port of the server with the model")
        if not self.model_path and self.engine not in ("scripted", "remote", "vllm-grpc"):
            raise ConfigError("--model-path is required: a folder with a Hugging Face model, or its name on the hub")
        self._refuse_options_of_other_engines()
        self._check_models()
        if (self.tensor_parallel_size or 1) > 1 and len(self.model_path) > 1:
            raise ConfigError("--tensor-parallel-size is for one model in a worker, but several --model-path are given")
        super().__post_init__()

    def _check_models(self) -> None:
        paths, names = self.model_path, self.model_name
        for flag, values in (("--model-name", names), ("--chat-template", self.chat_template)):
            if paths and values and len(paths) != len(values):
                raise ConfigError(
                    f"{flag} must be given once for each of the {len(paths)} --model-path, or not at all, "
                    f"not {len(values)} times"
                )
        if self.engine in ("remote", "vllm-grpc") and max(len(names), len(self.chat_template)) > 1:
            flag = "--model-name" if len(names) > 1 else "--chat-template"
            raise ConfigError(f"{flag} can be given once with --engine {self.engine}")
        if self.engine == "vllm" and len(paths) > 1:
            raise ConfigError(f"--model-path can be given once with --engine vllm, not {len(paths)} times")
        if self.also_speak:
            self._check_other_services()
        if len(set(names)) < len(names):
            raise ConfigError(f"--model-name must differ between models, not be {', '.join(names)}")
        for name in _OF_ONE_MODEL if len(paths) > 1 else ():
            if getattr(self, name):
                raise ConfigError(
                    f"--{name.replace('_', '-')} is for one model, but {len(paths)} --model-path are given"
                )

    def _check_other_services(self) -> None:
        if self.engine == "remote":
            raise ConfigError("--also-speak vllm cannot be used with --engine remote: a provider tells no token ids")
        if (count := max(len(self.model_path), len(self.model_name))) > 1:
            raise ConfigError(f"--also-speak vllm is for one model, but this worker is given {count}")

    def _refuse_options_of_other_engines(self) -> None:
        for spec in fields(self):
            engines = engines_of(WorkerConfig, spec.name)
            if engines is not None and self.engine not in engines and getattr(self, spec.name) != spec.default:
                flag = "--" + spec.name.replace("_", "-")
                raise ConfigError(f"{flag} has no effect with --engine {self.engine}")
