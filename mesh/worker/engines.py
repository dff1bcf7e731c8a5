"""Which engine a worker runs. Engines are imported when they are chosen: torch takes seconds."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mesh.config import ConfigError
from mesh.dialects import choose
from mesh.engine.base import Engine
from mesh.engine.several import SeveralEngines
from mesh.errors import ErrorKind, MeshError
from mesh.worker.config import WorkerConfig

if TYPE_CHECKING:
    from mesh.engine.transformers.loading.options import LoadOptions


def make_engine(config: WorkerConfig) -> Engine:
    """The engine of the configuration, not yet started; raises MeshError."""
    match config.engine:
        case "transformers":
            return _transformers(config)
        case "vllm":
            return _vllm(config)
        case "vllm-grpc":
            return _upstream(config)
        case "remote":
            return _remote(config)
        case "scripted":
            return _scripted(config)


def _transformers(config: WorkerConfig) -> Engine:
    try:
        from mesh.engine.transformers.loading.source import local_model

        for path in config.model_path:
            local_model(path, config.gguf_file)  # what is plainly wrong is said before torch is imported
        from mesh.engine.transformers.engine import TransformersEngine
        from mesh.engine.transformers.lora.config import AdapterSource
        from mesh.engine.transformers.memory import CacheSize
        from mesh.engine.transformers.options import EngineOptions
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("mesh"):
            raise
        raise MeshError(
            ErrorKind.INVALID_REQUEST,
            f"the transformers engine needs '{error.name}': pip install 'inference-mesh[worker]'",
        ) from None
    models = _load_options(config)
    cache = CacheSize(
        tokens=config.kv_cache_tokens, bytes=config.kv_cache_memory, share=config.kv_cache_share, parts=len(models)
    )
    return _one_of(
        TransformersEngine(
            EngineOptions(
                model,
                max_rows=config.max_rows,
                max_waiting=config.max_waiting,
                kv_cache=cache,
                page_size=config.page_size,
                step_tokens=config.step_tokens,
                step_seconds=config.step_seconds,
                prefix_cache=config.prefix_cache,
                packed=config.packed,
                pooling=config.pooling,
                speculate_tokens=config.speculate_tokens,
                adapters=tuple(AdapterSource(name, path) for name, path in config.loras),
                max_loras=config.max_loras,
                attention=config.attention,
                cuda_graphs=config.cuda_graphs,
                compile=config.compile,
            )
        )
        for model in models
    )


def _one_of(engines: Iterable[Engine]) -> Engine:
    """One engine for all: the only one, or one that stands for several."""
    all_engines = list(engines)
    return all_engines[0] if len(all_engines) == 1 else SeveralEngines(all_engines)


def _load_options(config: WorkerConfig) -> list[LoadOptions]:
    """What to load, model by model. They share the cores, as each computes on a thread of its own."""
    from mesh.engine.transformers.loading.device import default_threads
    from mesh.engine.transformers.loading.options import LoadOptions

    count = len(config.model_path)
    threads = config.threads if count == 1 else max(1, (config.threads or default_threads()) // count)
    names = config.model_name or (None,) * count
    templates = config.chat_template or (None,) * count
    return [
        LoadOptions(
            path=path,
            name=name,
            device=config.device,
            dtype=config.dtype,
            quantization=config.quantization_or_alias,
            hub=config.hub,
            revision=config.revision,
            gguf_file=config.gguf_file,
            allow_pickle=config.allow_pickle,
            num_gpus=config.num_gpus,
            tensor_parallel_size=config.tensor_parallel_size,
            max_gpu_memory=config.max_gpu_memory,
            cpu_offloading=config.cpu_offloading,
            trust_remote_code=config.trust_remote_code,
            threads=threads,
            context_length=config.context_length,
            chat_template=template,
            allow_chat_templates=config.allow_chat_templates,
            tool_parser=config.tool_parser,
            reasoning_parser=config.reasoning_parser,
        )
        for path, name, template in zip(config.model_path, names, templates, strict=True)
    ]


def _vllm(config: WorkerConfig) -> Engine:
    try:
        from mesh.engine.sourced.engine import SourcedEngine
        from mesh.engine.vllm.options import VllmOptions
        from mesh.engine.vllm.source import VllmSource

        if find_spec("vllm") is None:
            raise ModuleNotFoundError(name="vllm")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("mesh"):
            raise
        text = f"the vllm engine needs '{error.name}', best in an environment of its own: see docs/models.md"
        raise MeshError(ErrorKind.INVALID_REQUEST, text) from None
    (model,) = _load_options(config)
    source = VllmSource(VllmOptions(model, config.max_rows, arguments=config.vllm_arguments()))
    return SourcedEngine(source, max_rows=config.max_rows, max_waiting=config.max_waiting)


def _upstream(config: WorkerConfig) -> Engine:
    from mesh.engine.sourced.engine import SourcedEngine
    from mesh.engine.transformers.loading.options import LoadOptions
    from mesh.worker.vllm.upstream import UpstreamOptions, UpstreamSource

    assert config.upstream is not None, "WorkerConfig requires it"
    text = LoadOptions(
        path="",
        name=config.model_name[0] if config.model_name else None,
        context_length=config.context_length,
        chat_template=config.chat_template[0] if config.chat_template else None,
        allow_chat_templates=config.allow_chat_templates,
        tool_parser=config.tool_parser,
        reasoning_parser=config.reasoning_parser,
    )
    source = UpstreamSource(UpstreamOptions(config.upstream, text, config.upstream_security))
    return SourcedEngine(source, max_rows=config.max_rows, max_waiting=config.max_waiting)


def _remote(config: WorkerConfig) -> Engine:
    assert config.remote_model is not None, "WorkerConfig requires it"
    try:
        from mesh.engine.remote.engine import RemoteEngine
        from mesh.engine.remote.options import RemoteOptions
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("mesh"):
            raise
        raise MeshError(
            ErrorKind.INVALID_REQUEST, f"the remote engine needs '{error.name}': pip install 'inference-mesh[remote]'"
        ) from None
    try:
        key = config.api_key()
    except ConfigError as error:
        raise MeshError(ErrorKind.INVALID_REQUEST, str(error)) from None
    return RemoteEngine(
        RemoteOptions(
            name=config.model_name[0] if config.model_name else config.remote_model,
            model=config.remote_model,
            provider=config.provider,
            base_url=config.base_url,
            key=key,
            timeout=config.provider_timeout,
            context_length=config.context_length,
            answer_tokens=config.answer_tokens,
            extensions=frozenset(config.server_option),
            slots=config.max_rows,
            max_waiting=config.max_waiting,
        )
    )


def _scripted(config: WorkerConfig) -> Engine:
    from mesh.engine.scripted import ScriptedEngine, ScriptedOptions

    given: dict[str, Any] = {} if config.context_length is None else {"context_length": config.context_length}
    return _one_of(
        ScriptedEngine(
            ScriptedOptions(
                name=name,
                text=config.script_text,
                dialect=choose("", config.tool_parser, config.reasoning_parser),
                tokens=config.script_tokens,
                step_interval=config.script_step_ms / 1000,
                first_token_delay=config.script_prefill_ms / 1000,
                jitter=config.script_jitter,
                jitter_seed=config.script_jitter_seed,
                slots=config.max_rows,
                max_waiting=config.max_waiting,
                embedding_size=config.script_embedding_size,
                vision=config.script_vision,
                refuse=config.script_refuse,
                fail_after=config.script_fail_after,
                stall_after=config.script_stall_after,
                crash_after=config.script_crash_after,
                **given,
            )
        )
        for name in config.model_name or (ScriptedOptions.name,)
    )
