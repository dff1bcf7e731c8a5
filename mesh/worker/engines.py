"""Which engine a worker runs. Engines are imported when they are chosen: torch takes seconds."""

from __future__ import annotations

from mesh.engine.base import Engine
from mesh.errors import ErrorKind, MeshError
from mesh.worker.config import WorkerConfig


def make_engine(config: WorkerConfig) -> Engine:
    """The engine of the configuration, not yet started; raises MeshError."""
    match config.engine:
        case "transformers":
            return _transformers(config)
        case "scripted":
            return _scripted(config)


def _transformers(config: WorkerConfig) -> Engine:
    try:
        from mesh.engine.transformers.engine import EngineOptions, TransformersEngine
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("mesh"):
            raise
        raise MeshError(
            ErrorKind.INVALID_REQUEST,
            f"the transformers engine needs '{error.name}': pip install 'inference-mesh[worker]'",
        ) from None
    assert config.model_path is not None, "WorkerConfig requires it"
    return TransformersEngine(EngineOptions(path=config.model_path))


def _scripted(config: WorkerConfig) -> Engine:
    from mesh.engine.scripted import ScriptedEngine, ScriptedOptions

    return ScriptedEngine(ScriptedOptions())
