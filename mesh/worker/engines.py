"""Which engine a worker runs. Engines are imported when they are chosen: torch takes seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mesh.engine.base import Engine
from mesh.errors import ErrorKind, MeshError
from mesh.worker.config import WorkerConfig

if TYPE_CHECKING:
    from mesh.engine.transformers.loader import LoadOptions


def make_engine(config: WorkerConfig) -> Engine:
    """The engine of the configuration, not yet started; raises MeshError."""
    match config.engine:
        case "transformers":
            return _transformers(config)
        case "scripted":
            return _scripted(config)


def _transformers(config: WorkerConfig) -> Engine:
    assert config.model_path is not None, "WorkerConfig requires it"
    try:
        from mesh.engine.transformers.source import local_folder

        local_folder(config.model_path)  # what is plainly wrong is said before torch is imported
        from mesh.engine.transformers.engine import TransformersEngine
        from mesh.engine.transformers.memory import CacheSize
        from mesh.engine.transformers.options import EngineOptions
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("mesh"):
            raise
        raise MeshError(
            ErrorKind.INVALID_REQUEST,
            f"the transformers engine needs '{error.name}': pip install 'inference-mesh[worker]'",
        ) from None
    return TransformersEngine(
        EngineOptions(
            models=(_load_options(config),),
            max_rows=config.max_rows,
            max_waiting=config.max_waiting,
            kv_cache=CacheSize(tokens=config.kv_cache_tokens, share=config.kv_cache_share),
            page_size=config.page_size,
            step_tokens=config.step_tokens,
            prefix_cache=config.prefix_cache,
            packed=config.packed,
        )
    )


def _load_options(config: WorkerConfig) -> LoadOptions:
    from mesh.engine.transformers.loader import LoadOptions

    assert config.model_path is not None, "WorkerConfig requires it"
    return LoadOptions(
        path=config.model_path,
        name=config.model_name,
        device=config.device,
        dtype=config.dtype,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
        threads=config.threads,
        context_length=config.context_length,
        chat_template=str(config.chat_template) if config.chat_template is not None else None,
        allow_chat_templates=config.allow_chat_templates,
    )


def _scripted(config: WorkerConfig) -> Engine:
    from mesh.engine.scripted import ScriptedEngine, ScriptedOptions

    given: dict[str, Any] = {} if config.context_length is None else {"context_length": config.context_length}
    return ScriptedEngine(
        ScriptedOptions(
            name=config.model_name or ScriptedOptions.name,
            text=config.script_text,
            tokens=config.script_tokens,
            step_interval=config.script_step_ms / 1000,
            first_token_delay=config.script_prefill_ms / 1000,
            jitter=config.script_jitter,
            jitter_seed=config.script_jitter_seed,
            slots=config.max_rows,
            max_waiting=config.max_waiting,
            embedding_size=config.script_embedding_size,
            refuse=config.script_refuse,
            fail_after=config.script_fail_after,
            stall_after=config.script_stall_after,
            crash_after=config.script_crash_after,
            **given,
        )
    )
