"""Every setting of the worker. Each field is a flag and an environment variable (see mesh/config.py)."""

from __future__ import annotations

from dataclasses import dataclass, fields

from mesh.config import ConfigError
from mesh.worker.flags import engines_of
from mesh.worker.flags.batching import BatchingFlags
from mesh.worker.flags.model import ModelFlags
from mesh.worker.flags.scripted import ScriptedFlags
from mesh.worker.flags.server import ServerFlags


@dataclass(frozen=True)
class WorkerConfig(ScriptedFlags, BatchingFlags, ServerFlags, ModelFlags):
    """Serve a language model to the mesh over gRPC."""

    def __post_init__(self) -> None:
        if self.model_path is None and self.engine != "scripted":
            raise ConfigError("--model-path is required: a folder with a Hugging Face model, or its name on the hub")
        self._refuse_options_of_other_engines()
        super().__post_init__()

    def _refuse_options_of_other_engines(self) -> None:
        for spec in fields(self):
            engines = engines_of(WorkerConfig, spec.name)
            if engines is not None and self.engine not in engines and getattr(self, spec.name) != spec.default:
                flag = "--" + spec.name.replace("_", "-")
                raise ConfigError(f"{flag} has no effect with --engine {self.engine}")
