"""vLLM in this process's care: its AsyncLLM computes tokens, everything else is the mesh's own.

Prompts are rendered and tokenized by our tokenizer, texts, stop strings and ends come from OutputTracker. So an answer
reads the same as with the default engine, and greedy answers resume exactly: resumed tokens go to vLLM as a part of the
prompt. Each choice is a request of its own to vLLM, since choices may have come to different places.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from importlib import import_module
from typing import Any

from mesh.engine.base import (
    Chat,
    Engine,
    Event,
    Failed,
    Load,
    ModelInfo,
    Request,
    StepListener,
    Text,
    Tokens,
)
from mesh.engine.calls import refuse_call_rule
from mesh.engine.chat import with_template_stops
from mesh.engine.output import OutputTracker, check_token_ids
from mesh.engine.steps import Steps
from mesh.engine.transformers.loading.loader import TextSide, load_text_side
from mesh.engine.vllm.live import Live
from mesh.engine.vllm.options import VllmOptions
from mesh.engine.vllm.sampling import check, module, to_params
from mesh.errors import ErrorKind, MeshError, invalid
from mesh.log import kv

log = logging.getLogger(__name__)

_MOST_LOGPROBS = 20
_STOP_SECONDS = 10.0


class VllmEngine(Engine):
    """See mesh.engine.base.Engine for the contract."""

    name = "vllm"

    def __init__(self, options: VllmOptions) -> None:
        self._options = options
        self._side: TextSide | None = None
        self._llm: Any = None
        self._vllm: Any = None
        self._info: ModelInfo | None = None
        self._live: dict[int, Live] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._steps = Steps(self.load)
        self._broken = asyncio.Event()
        self._counters = dict.fromkeys(("requests", "prompt_tokens", "cached_tokens", "output_tokens"), 0)

    @property
    def models(self) -> Sequence[ModelInfo]:
        """See Engine."""
        return [self._info] if self._info is not None else []

    # Life

    async def start(self, listener: StepListener) -> None:
        """See Engine."""
        try:
            self._side, self._llm, self._vllm = await asyncio.to_thread(self._build)
        except MeshError:
            raise
        except Exception as error:
            log.exception("vLLM could not be made ready")
            path, reason = self._options.model.path, " ".join(str(error).split())[:300]
            text = f"the model at '{path}' could not be made ready by vLLM: {type(error).__name__}: {reason}"
            raise MeshError(ErrorKind.ENGINE_FAILED, text) from None
        self._info = self._describe(self._side)
        self._steps.listener = listener
        log.info("model ready", extra=kv(model=self._info.name, context=self._info.context_length))

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

    async def stop(self) -> None:
        """See Engine."""
        self._steps.listener = None
        for live in self._live.values():
            live.cancel()
        self._live.clear()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_STOP_SECONDS)
        llm, self._llm, self._info = self._llm, None, None
        if llm is not None:
            await asyncio.to_thread(llm.shutdown)

    async def wait_broken(self) -> None:
        """See Engine."""
        await self._broken.wait()

    # Requests

    async def submit(self, request: Request) -> None:
        """See Engine."""
        arrived = time.monotonic()
        side, info = self._serving(request.model)
        check(request)
        refuse_call_rule(request.prompt)
        check_token_ids(request.sampling, info.vocab_size)
        _check_resume(request, info.vocab_size)
        self._refuse_overload(request.sampling.n)
        request, stops = with_template_stops(request, side.chat)
        if request.constraint is not None:
            # The grammar alone says when it is complete, and an answer that is has no other token than the end.
            # Nor is there any reasoning, so that nobody must look for it.
            request = replace(
                request,
                sampling=replace(request.sampling, min_tokens=0, ignore_eos=False),
                output=replace(request.output, prompt_end=False),
            )
        prompt = _encode(side, request)
        if not prompt or not 0 <= min(prompt) <= max(prompt) < info.vocab_size:
            raise invalid("prompt", f"'prompt' must be token ids from 0 to {info.vocab_size - 1}, at least one")
        tracker = OutputTracker(
            request,
            side.tokenizer,
            prompt_ids=prompt,
            eos_token_ids=info.eos_token_ids,
            context_length=info.context_length,
            template_stops=stops,
            arrived=arrived,
        )
        self._begin(Live(request, tracker, prompt))

    def _serving(self, model: str) -> tuple[TextSide, ModelInfo]:
        if self._side is None or self._info is None or self._steps.listener is None:
            raise MeshError(ErrorKind.DRAINING, "the engine is not running")
        if self._broken.is_set():
            raise MeshError(ErrorKind.ENGINE_FAILED, "the engine has broken down")
        if model and model != self._info.name:
            text = f"model '{model}' is not served here: the served model is '{self._info.name}'"
            raise MeshError(ErrorKind.MODEL_NOT_FOUND, text, param="model")
        return self._side, self._info

    def _refuse_overload(self, rows: int) -> None:
        waiting, limit = self.load().waiting, self._options.max_waiting
        if waiting and waiting + rows > limit:
            text = f"the queue of this worker holds {waiting} rows and takes at most {limit}"
            raise MeshError(ErrorKind.OVERLOADED, text)

    def _begin(self, live: Live) -> None:
        loop = asyncio.get_running_loop()
        self._live[live.key] = live
        self._counters["requests"] += 1
        self._counters["prompt_tokens"] += len(live.prompt)
        if live.request.deadline is not None:
            live.deadline = loop.call_at(live.request.deadline, self._expire, live.key)
        for choice in live.tracker.open_choices:
            task = live.tasks[choice] = loop.create_task(self._row(live, choice))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if not live.tasks:
            loop.call_soon(self._end_at_once, live)

    def _end_at_once(self, live: Live) -> None:
        """Nothing is left to do for a request but to say so."""
        events: list[Event] = []
        live.start(events, 0)
        self._report(live, events)

    async def _row(self, live: Live, choice: int) -> None:
        """One choice from its first new token to its end."""
        try:
            await self._follow(live, choice)
        except Exception as error:
            self._fail(live, self._explain(error))

    async def _follow(self, live: Live, choice: int) -> None:
        request = live.request
        progress = request.resume.get(choice)
        done = list(progress.token_ids) if progress is not None else []
        tracker = live.tracker
        params = to_params(request, choice, done=len(done), limit=tracker.limit, ending=tracker.ending, vllm=self._vllm)
        prompt: dict[str, Any] = {"prompt_token_ids": live.prompt + done}
        if request.tenant or request.cache_salt:
            prompt["cache_salt"] = f"{request.tenant}\0{request.cache_salt}"
        name = f"{live.key}-{choice}"
        outputs: Any = self._llm.generate(prompt, params, name, priority=request.priority)
        async with aclosing(outputs):
            async for output in outputs:
                events: list[Event] = []
                cached = output.num_cached_tokens or 0
                if not live.started:
                    self._counters["cached_tokens"] += cached
                live.start(events, min(cached, len(live.prompt)))
                live.take(events, choice, output.outputs[0])
                self._counters["output_tokens"] += len(output.outputs[0].token_ids)
                self._report(live, events)
                if choice not in live.tracker.open_choices:
                    return

    def _report(self, live: Live, events: list[Event]) -> None:
        if self._live.get(live.key) is not live:
            return
        if live.tracker.finished:
            self._forget(live.key)
        self._steps.report(events)

    def _explain(self, error: Exception) -> MeshError:
        """vLLM has a family of errors for requests that it does not take."""
        if getattr(self._llm, "errored", False):
            self._broken.set()
            return MeshError(ErrorKind.ENGINE_FAILED, "vLLM's engine has broken down")
        if isinstance(error, MeshError):
            return error
        if isinstance(error, import_module("vllm.exceptions").VLLMClientError):
            said = " ".join(str(error).split())[:500]
            return MeshError(ErrorKind.INVALID_REQUEST, f"vLLM refuses the request: {said}")
        log.error("a row broke", exc_info=error)
        return MeshError(ErrorKind.ENGINE_FAILED, "vLLM failed to serve the request")

    def _fail(self, live: Live, error: MeshError) -> None:
        if self._live.get(live.key) is live:
            self._forget(live.key)
            live.cancel()
            self._steps.report([Failed(live.key, error)])

    def _expire(self, key: int) -> None:
        live = self._live.get(key)
        if live is not None:
            text = "the deadline passed before the answer was complete"
            self._fail(live, MeshError(ErrorKind.DEADLINE_EXCEEDED, text))

    def _forget(self, key: int) -> Live | None:
        live = self._live.pop(key, None)
        if live is not None and live.deadline is not None:
            live.deadline.cancel()
        return live

    def cancel(self, key: int) -> None:
        """See Engine."""
        live = self._forget(key)
        if live is not None:
            live.cancel()
        self._steps.discard(key)

    def grant(self, key: int, tokens: int) -> None:
        """See Engine."""
        live = self._live.get(key)
        if live is not None and live.credit is not None:
            live.credit += tokens
            events: list[Event] = []
            live.release(events)
            self._report(live, events)

    # What is known

    def load(self) -> Load:
        """See Engine. vLLM keeps its queue to itself: rows without a token yet count as waiting."""
        rows = {live: len(live.tasks) for live in self._live.values()}
        waiting = [live for live in rows if not live.started]
        paused = sum(count for live, count in rows.items() if live.paused)
        queued = sum(rows[live] for live in waiting)
        return Load(
            running=sum(rows.values()) - queued - paused,
            waiting=queued,
            paused=paused,
            slots=self._options.max_rows,
            running_tokens=sum(len(live.prompt) for live in rows if live.started),
            pending_tokens=sum(len(live.prompt) for live in waiting),
            steps=self._steps.number,
        )

    def stats(self) -> dict[str, float]:
        """See Engine."""
        rows = sum(len(live.tasks) for live in self._live.values())
        return {"steps": self._steps.number, "rows_live": rows, **self._counters}

    async def tokenize(self, model: str, prompt: Text | Chat, *, add_special_tokens: bool = True) -> list[int]:
        """See Engine."""
        side, _ = self._serving(model)
        if isinstance(prompt, Chat):
            return side.chat.render(prompt)
        return side.tokenizer.encode(prompt.text, add_special_tokens=add_special_tokens)

    async def detokenize(self, model: str, ids: Sequence[int], *, keep_special_tokens: bool = False) -> str:
        """See Engine."""
        side, _ = self._serving(model)
        return side.tokenizer.decode(ids, keep_special_tokens=keep_special_tokens)

    async def tokenizer_files(self, model: str) -> dict[str, bytes]:
        """See Engine."""
        return await asyncio.to_thread(self._serving(model)[0].chat.files)


def _encode(side: TextSide, request: Request) -> list[int]:
    match request.prompt:
        case Tokens(ids):
            return list(ids)
        case Text(text):
            return side.tokenizer.encode(text)
        case Chat() as chat:
            return side.chat.render(chat)


def _check_resume(request: Request, vocab_size: int) -> None:
    for choice, progress in request.resume.items():
        if not 0 <= choice < request.sampling.n:
            raise invalid("resume", f"'resume' names choice {choice}: must be below 'n' ({request.sampling.n})")
        if progress.token_ids and not 0 <= min(progress.token_ids) <= max(progress.token_ids) < vocab_size:
            raise invalid("resume", f"'resume' must hold token ids from 0 to {vocab_size - 1}")
