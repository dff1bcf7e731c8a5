"""vLLM in this process's care: its AsyncLLM computes tokens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from importlib import import_module
from typing import Any

from mesh.engine.base import ModelInfo, Request
from mesh.engine.output import RawLogprob
from mesh.engine.sourced.source import Piece, Row, Source
from mesh.engine.transformers.loading.text_side import TextSide, load_text_side
from mesh.engine.vllm.options import VllmOptions
from mesh.engine.vllm.sampling import check, module, to_params
from mesh.errors import ErrorKind, MeshError, invalid
from mesh.log import kv

log = logging.getLogger(__name__)

_MOST_LOGPROBS = 20


class VllmSource(Source):
    """See Source."""

    name = "vllm"

    def __init__(self, options: VllmOptions) -> None:
        super().__init__()
        self._options = options
        self._llm: Any = None
        self._vllm: Any = None

    async def open(self) -> tuple[TextSide, ModelInfo]:
        """See Source."""
        try:
            side, self._llm, self._vllm = await asyncio.to_thread(self._build)
        except MeshError:
            raise
        except Exception as error:
            log.exception("vLLM could not be made ready")
            path, reason = self._options.model.path, " ".join(str(error).split())[:300]
            text = f"the model at '{path}' could not be made ready by vLLM: {type(error).__name__}: {reason}"
            raise MeshError(ErrorKind.ENGINE_FAILED, text) from None
        info = self._describe(side)
        log.info("model ready", extra=kv(model=info.name, context=info.context_length))
        return side, info

    def _build(self) -> tuple[TextSide, Any, Any]:
        options, model = self._options, self._options.model
        side = load_text_side(model, log.info, number_format=f"vllm {model.dtype}")
        arguments: dict[str, Any] = {
            "model": str(side.folder),
            "dtype": model.dtype,
            "max_model_len": model.context_length,
            "trust_remote_code": model.trust_remote_code,
            "max_num_seqs": options.max_rows,
            "max_logprobs": _MOST_LOGPROBS,
            "scheduling_policy": "priority",
            # JSON allows whitespace without end, and models that are held to JSON take what is allowed.
            "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
            # Defaults of a model's own would change what a request means.
            "generation_config": "vllm",
            "disable_log_stats": True,
        }
        if taken := sorted(arguments.keys() & options.arguments.keys()):
            raise invalid("vllm_option", f"'{taken[0]}' cannot be given as an option of vLLM: the worker sets it")
        arguments |= dict(options.arguments)
        given: Any = import_module("vllm.engine.arg_utils").AsyncEngineArgs
        try:
            made = given(**arguments)
        except TypeError as error:
            raise invalid("vllm_option", f"vLLM does not take this option: {error}") from None
        llm: Any = import_module("vllm.v1.engine.async_llm").AsyncLLM
        return side, llm.from_engine_args(made), module()

    def _describe(self, side: TextSide) -> ModelInfo:
        config: Any = self._llm.model_config
        capabilities = {"completion", "resume", "logprobs", "constraint"}
        if side.chat.has_template:
            capabilities |= {"chat", "tools"} if side.chat.supports_tools else {"chat"}
        return ModelInfo(
            name=side.name,
            fingerprint=side.fingerprint,
            context_length=config.max_model_len,
            capabilities=frozenset(capabilities),
            vocab_size=config.get_vocab_size(),
            eos_token_ids=side.eos_token_ids,
            architecture=side.architecture,
            dtype=str(config.dtype).removeprefix("torch."),
            device=str(self._llm.vllm_config.device_config.device_type),
            dialect=side.chat.dialect,
        )

    async def close(self) -> None:
        """See Source."""
        llm, self._llm = self._llm, None
        if llm is not None:
            await asyncio.to_thread(llm.shutdown)

    def check(self, request: Request) -> None:
        """See Source."""
        check(request)

    async def follow(self, row: Row) -> AsyncGenerator[Piece]:
        """See Source."""
        request = row.request
        params = to_params(request, row.choice, done=row.done, limit=row.limit, ending=row.ending, vllm=self._vllm)
        prompt: dict[str, Any] = {"prompt_token_ids": list(row.ids)}
        if request.tenant or request.cache_salt:
            prompt["cache_salt"] = f"{request.tenant}\0{request.cache_salt}"
        name = f"{row.key}-{row.choice}"
        outputs: Any = self._llm.generate(prompt, params, name, priority=request.priority)
        async with aclosing(outputs):
            async for output in outputs:
                yield _piece(output, request.output.logprobs or 0)

    def explain(self, error: Exception) -> MeshError:
        """vLLM has a family of errors for requests that it does not take."""
        if getattr(self._llm, "errored", False):
            self.broken.set()
            return MeshError(ErrorKind.ENGINE_FAILED, "vLLM's engine has broken down")
        if isinstance(error, import_module("vllm.exceptions").VLLMClientError):
            said = " ".join(str(error).split())[:500]
            return MeshError(ErrorKind.INVALID_REQUEST, f"vLLM refuses the request: {said}")
        log.error("a row broke", exc_info=error)
        return MeshError(ErrorKind.ENGINE_FAILED, "vLLM failed to serve the request")


def _piece(output: Any, count: int) -> Piece:
    """vLLM's RequestOutput of one choice, with `count` of the likeliest tokens at each place if they were asked for."""
    told = output.outputs[0]
    logprobs: list[RawLogprob] | None = None
    if told.logprobs is not None:
        places = zip(told.token_ids, told.logprobs, strict=False)
        logprobs = [_raw(found, token_id, count) for token_id, found in places]
    return Piece(told.token_ids, logprobs, output.num_cached_tokens or 0)


def _raw(found: Any, token_id: int, count: int) -> RawLogprob:
    """vLLM maps ids to values with ranks, the chosen token's besides the likeliest ones."""
    ranked = sorted(found.items(), key=lambda item: item[1].rank)
    return found[token_id].logprob, [(other, value.logprob) for other, value in ranked[:count]]
