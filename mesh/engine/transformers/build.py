"""From options to an engine that is ready to step: load, test, choose the runner, size the KV cache."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import Any, cast

from mesh.engine.base import Chat, ModelInfo, Text
from mesh.engine.chat import ChatRenderer
from mesh.engine.constraint import Grammars
from mesh.engine.sampler import Sampler
from mesh.engine.text import Codec
from mesh.engine.transformers.attention.kernels import Kernels, find_kernels
from mesh.engine.transformers.attention.kv_cache import KvCache
from mesh.engine.transformers.core import Core
from mesh.engine.transformers.embedding.build import make_embedder, make_headless
from mesh.engine.transformers.embedding.embedder import Embedder, PlainAttention
from mesh.engine.transformers.layers.compiling import compile_layers, undo_compile
from mesh.engine.transformers.layers.prepack import prepack
from mesh.engine.transformers.layers.row_linear import use_row_linear
from mesh.engine.transformers.loading.device import find_device
from mesh.engine.transformers.loading.loader import LoadedModel, load
from mesh.engine.transformers.lora.files import Base
from mesh.engine.transformers.lora.hooks import Adapter, LoraHooks, find_places
from mesh.engine.transformers.memory import cache_pages, short_cache
from mesh.engine.transformers.options import EngineOptions
from mesh.engine.transformers.parallel.group import keep_local_shards, smallest
from mesh.engine.transformers.parallel.ranks import Ranks
from mesh.engine.transformers.parallel.runner import LeadingRunner
from mesh.engine.transformers.runners.packed import PackedRunner, is_spread
from mesh.engine.transformers.runners.per_sequence import PerSequenceRunner, bytes_per_token
from mesh.engine.transformers.runners.runner import Runner
from mesh.engine.transformers.runners.selftest import (
    Verdict,
    check_packed,
    relative_difference,
    run_packed_once,
    tolerance,
)
from mesh.engine.transformers.runners.sight import Sight, find_sight
from mesh.engine.transformers.scheduling.blocks import BlockManager
from mesh.engine.transformers.scheduling.scheduler import Limits, Scheduler
from mesh.engine.transformers.vision.pictures import PictureReader
from mesh.errors import invalid
from mesh.log import kv

log = logging.getLogger(__name__)

_PAGE_SIZE = 16
# Logits that one prompt may keep, where it is computed in one piece: 1 GiB in float32.
_MOST_LOGITS = 1 << 28
_STEP_TOKENS = {"cpu": 512, "cuda": 2048}


@dataclass(frozen=True, slots=True)
class Served:
    """What the event loop's side needs of the served model. Token ids from `token_limit` on cannot be its input.
    `scored_tokens` is the longest prompt whose log probabilities can be reported; None is any, 0 none.

    `lora` is what adapters are checked against, or why there can be none; `adapter` is the one that makes this model of
    its base. `pictures` is there for models that see.
    """

    info: ModelInfo
    tokenizer: Codec
    chat: ChatRenderer
    page_size: int
    token_limit: int
    shares_prefix: bool
    scored_tokens: int | None
    grammars: Grammars | None
    embedder: Embedder | None
    lora: Base | str
    adapter: Adapter | None = None
    pictures: PictureReader | None = None

    def encode(self, prompt: Text | Chat, *, add_special_tokens: bool = True) -> list[int]:
        """The token ids of a prompt."""
        if isinstance(prompt, Chat):
            return self.chat.render(prompt)
        return self.tokenizer.encode(prompt.text, add_special_tokens=add_special_tokens)


def build(options: EngineOptions, ranks: Ranks | None = None) -> tuple[Core, Served]:
    """Load the model and make everything around it, with `ranks` as rank 0 of them. Blocks; to be called on the
    engine's thread."""
    _check_device(options)
    loaded = load(options.model, log.info)
    attention = PlainAttention(loaded.model)
    if not loaded.generates:
        return _build_headless(options, loaded, attention)
    _change_layers(options, loaded)
    sight = find_sight(loaded) if ranks is None else None
    choice = _try_packed(options, loaded, sight)
    page_size = choice.page_size
    step_tokens = _step_tokens(options, loaded)
    blocks, runner = _make_runner(options, loaded, choice, sight)
    if loaded.device.type == "cuda":
        _speed_up(options, loaded, runner, step_tokens)
    elif options.compile:
        _try_whole(loaded, runner, step_tokens)
    if ranks is not None and isinstance(runner, PackedRunner):
        runner = LeadingRunner(runner, ranks)
    if options.speculate_tokens and not runner.chunks:
        log.warning("no speculation: the cache of %s cannot take back a wrong guess", loaded.architecture)
    limits = Limits(
        options.max_rows,
        step_tokens,
        chunked_prefill=runner.chunks,
        draft_tokens=options.speculate_tokens if runner.chunks else 0,
        step_seconds=options.step_seconds or None,
    )
    scheduler = Scheduler(limits, blocks, runner.release)
    sampler = Sampler(loaded.vocab_size, loaded.device, loaded.eos_token_ids)
    grammars = _grammars(loaded)
    embedder = make_embedder(options, loaded, attention, step_tokens) if ranks is None else None
    scored_tokens = _scored_tokens(loaded, runner)
    there = {"constraint": grammars, "embed": embedder, "vision": sight}
    more = {name for name, part in there.items() if part is not None}
    if scored_tokens != 0:
        more.add("prompt_logprobs")
    info = _describe(loaded, runner, blocks, more)
    log.info(
        "model ready",
        extra=kv(model=info.name, execution=info.execution, kv_tokens=blocks.total * page_size, rows=options.max_rows),
    )
    served = Served(
        info,
        loaded.tokenizer,
        loaded.chat,
        page_size,
        _token_limit(loaded),
        runner.shares_prefix,
        scored_tokens,
        grammars,
        embedder,
        _prepare_lora(options, loaded, runner, page_size),
        pictures=sight.reader if sight else None,
    )
    return Core(runner, sampler, scheduler), served


def build_follower(options: EngineOptions, device: str) -> PackedRunner:
    """Load this rank's share of the model, and make the runner that does what rank 0's does. Every step that ranks take
    together is taken here as in `build`, in the same order."""
    options = replace(options, model=replace(options.model, device=device))
    loaded = load(options.model, log.info)
    _change_layers(options, loaded)
    _, runner = _make_runner(options, loaded, _try_packed(options, loaded, None), None)
    assert isinstance(runner, PackedRunner), "other runners are refused"
    if loaded.device.type == "cuda":
        _speed_up(options, loaded, runner, _step_tokens(options, loaded))
    return runner


def _change_layers(options: EngineOptions, loaded: LoadedModel) -> None:
    """Bring linear layers into the form in which they are fastest."""
    if options.model.ranks > 1:
        keep_local_shards(loaded.model)
    elif options.prepack and (packed := prepack(loaded.model, loaded.vocab_size)):
        log.info("%d linear layers in oneDNN's layout", packed)


def _step_tokens(options: EngineOptions, loaded: LoadedModel) -> int:
    return options.step_tokens or max(options.max_rows, _STEP_TOKENS.get(loaded.device.type, 512))


def _build_headless(options: EngineOptions, loaded: LoadedModel, attention: PlainAttention) -> tuple[Core, Served]:
    core, info, embedder = make_headless(options, loaded, attention)
    return core, Served(
        info,
        loaded.tokenizer,
        loaded.chat,
        page_size=1,
        token_limit=_token_limit(loaded),
        shares_prefix=False,
        scored_tokens=None,
        grammars=None,
        embedder=embedder,
        lora="it has no head for generation",
    )


def _token_limit(loaded: LoadedModel) -> int:
    """Rows of the embedding table, and no more than the logits are wide: penalties count prompt tokens there."""
    weight: Any = getattr(cast(Any, loaded.model).get_input_embeddings(), "weight", None)
    limit = loaded.vocab_size if weight is None else min(loaded.vocab_size, int(weight.shape[0]))
    if (tokens := len(loaded.tokenizer.hf)) > limit:
        text = (
            "the tokenizer has %d tokens, of which %s knows %d: texts with others are refused; is it this model's own?"
        )
        log.warning(text, tokens, loaded.architecture, limit)
    return limit


def _scored_tokens(loaded: LoadedModel, runner: Runner) -> int | None:
    """An encoder's input has no probabilities; a prompt in one piece keeps the logits of all of its tokens."""
    if loaded.config.is_encoder_decoder:
        return 0
    return None if runner.chunks else _MOST_LOGITS // loaded.vocab_size


@dataclass(frozen=True, slots=True)
class _Choice:
    """How the model is run: by which kernels, None being torch's own, if the verdict is that it can be packed."""

    verdict: Verdict
    page_size: int
    kernels: Kernels | None = None


def _try_packed(options: EngineOptions, loaded: LoadedModel, sight: Sight | None) -> _Choice:
    choice = _Choice(Verdict("switched off"), options.page_size or _PAGE_SIZE)
    if not options.packed:
        return choice
    spread, compiled = is_spread(loaded.model), options.compile
    for kernels in find_kernels(options.attention, loaded.device, spread=spread, compiled=compiled):
        page_size = options.page_size or (kernels.page_size if kernels else _PAGE_SIZE)
        verdict = check_packed(loaded.model, loaded.vocab_size, loaded.context_length, page_size, kernels)
        if verdict.reason is None and sight is not None:
            verdict.reason = sight.check_packed(page_size, kernels)
        choice = _Choice(verdict, page_size, kernels)
        if verdict.reason is None:
            log.info("attention", extra=kv(kernels=kernels.name if kernels else "sdpa", page_size=page_size))
            return choice
        if kernels is not None:
            _tell_refusal(options.attention, kernels, loaded, verdict.reason)
    reason = choice.verdict.reason
    if options.model.ranks > 1:
        raise invalid("tensor_parallel_size", f"{loaded.architecture} cannot run tensor parallel: {reason}")
    log.warning("%s cannot run packed, so each row gets a forward of its own: %s", loaded.architecture, reason)
    return choice


def _tell_refusal(wanted: str, kernels: Kernels, loaded: LoadedModel, reason: str) -> None:
    if wanted == kernels.name:
        raise invalid("attention", f"'attention' is '{wanted}', which cannot run {loaded.architecture}: {reason}")
    log.info("%s cannot run with the %s kernels: %s", loaded.architecture, kernels.name, reason)


def _make_runner(
    options: EngineOptions, loaded: LoadedModel, choice: _Choice, sight: Sight | None
) -> tuple[BlockManager, Runner]:
    verdict, page_size = choice.verdict, choice.page_size
    packed = verdict.reason is None
    if packed:
        elements = sum(shape.heads * (shape.key_size + shape.value_size) for shape in verdict.shapes.values())
        token_bytes = elements * loaded.dtype.itemsize
    else:
        token_bytes = bytes_per_token(loaded.config.get_text_config(decoder=True), loaded.dtype.itemsize)
    kv_cache = options.kv_cache
    if options.model.ranks > 1 and loaded.device.type == "cpu":
        kv_cache = replace(kv_cache, parts=options.model.ranks)  # all take of the same memory
    pages = cache_pages(
        kv_cache,
        page_size=page_size,
        bytes_per_token=token_bytes,
        most_tokens=options.max_rows * loaded.context_length,
        device=loaded.device,
    )
    if options.model.ranks > 1:
        pages = smallest(pages, loaded.device)
    blocks = BlockManager(pages, page_size)
    if sentence := short_cache(blocks.total * page_size, loaded.context_length, token_bytes):
        log.warning("%s", sentence)
    if not packed:
        return blocks, _per_sequence(loaded, sight)
    cache = KvCache(pages, page_size, loaded.dtype, loaded.device)
    cache.reserve(verdict.shapes)
    most_pages = min(blocks.total, blocks.pages_for(loaded.context_length))
    tower = sight.tower if sight else None
    return blocks, PackedRunner(
        loaded.model, cache, options.max_rows, most_pages, choice.kernels, tower, look_ahead=options.look_ahead
    )


def _check_device(options: EngineOptions) -> None:
    """Refuse before the load what the device cannot honour."""
    device = find_device(options.model.device)
    find_kernels(options.attention, device)
    if options.compile and device.type not in ("cuda", "cpu"):
        raise invalid("compile", f"'compile' needs a CUDA device or a CPU, and the device is '{device}'")


def _speed_up(options: EngineOptions, loaded: LoadedModel, runner: Runner, step_tokens: int) -> None:
    """What makes steps on CUDA shorter and changes no answer; what a model does not take is left away."""
    if not isinstance(runner, PackedRunner):
        if options.compile:
            log.warning("%s is not compiled: it does not run packed", loaded.architecture)
        return
    alone = options.model.ranks == 1
    if alone and runner.kernels is not None and runner.kernels.name == "triton":
        log.info("single rows by a kernel of their own", extra=kv(layers=use_row_linear(loaded.model)))
    if options.compile:
        _try_compiled(loaded, runner, step_tokens)
    if options.cuda_graphs and runner.kernels is not None:
        recorded = _try_recorded(options, loaded, runner, step_tokens)
        if not alone and not smallest(recorded, loaded.device):
            runner.forget_graphs()  # all ranks or none


def _try_recorded(options: EngineOptions, loaded: LoadedModel, runner: PackedRunner, step_tokens: int) -> bool:
    try:
        runner.warm_up(step_tokens)
        runner.capture(options.max_rows)
    except Exception as error:  # whatever a model's code may raise when it is recorded
        log.warning("%s is not recorded as CUDA graphs: %s", loaded.architecture, error)
        return False
    return True


def _try_compiled(loaded: LoadedModel, runner: PackedRunner, step_tokens: int) -> None:
    began = time.monotonic()
    layers = compile_layers(loaded.model)
    try:
        runner.warm_up(step_tokens)
    except Exception as error:  # whatever a model's code, or a missing compiler, may raise
        undo_compile(layers)
        log.warning("%s is not compiled: %s", loaded.architecture, error)
        return
    log.info("compiled", extra=kv(layers=len(layers), seconds=round(time.monotonic() - began, 1)))


def _try_whole(loaded: LoadedModel, runner: Runner, step_tokens: int) -> None:
    """The model as one compiled graph, on a CPU; what cannot be compiled is served as it is."""
    began = time.monotonic()
    if not isinstance(runner, PackedRunner) or runner.sees:
        log.warning("%s is not compiled: it does not run packed, or it sees pictures", loaded.architecture)
        return
    try:
        expected = runner.warm_up(step_tokens)
        runner.compile_whole()
        pairs = zip(runner.warm_up(step_tokens), expected, strict=True)
        difference = max(relative_difference(found, wanted) for found, wanted in pairs)
        if difference > tolerance(loaded.model):
            raise ArithmeticError(f"the compiled logits differ by {difference:.2g} of their size")
    except Exception as error:  # whatever a model's code, or a missing compiler, may raise
        runner.forget_whole()
        log.warning("%s is not compiled: %s", loaded.architecture, error)
        return
    log.info("compiled", extra=kv(seconds=round(time.monotonic() - began, 1)))


def _per_sequence(loaded: LoadedModel, sight: Sight | None) -> PerSequenceRunner:
    runner = PerSequenceRunner(loaded.model, sight.tower if sight else None)
    reason = runner.check_cache(loaded.vocab_size)
    if reason is not None:
        log.warning("%s computes everything anew for each token: %s", loaded.architecture, reason)
    return runner


def _grammars(loaded: LoadedModel) -> Grammars | None:
    """None for a tokenizer whose tokens are not known as bytes, and for a model that has no way to end its answer."""
    eos = [token_id for token_id in loaded.eos_token_ids if token_id < loaded.vocab_size]
    return Grammars(loaded.tokenizer, loaded.vocab_size, eos) if eos and loaded.tokenizer.has_bytes else None


def chat_capabilities(chat: ChatRenderer) -> set[str]:
    """What a model can do by its chat template."""
    if not chat.has_template:
        return set()
    return {"chat", "tools"} if chat.supports_tools else {"chat"}


def _prepare_lora(options: EngineOptions, loaded: LoadedModel, runner: Runner, page_size: int) -> Base | str:
    """Find the layers that adapters may change, or why there is none."""
    if not options.max_loras:
        return "'max_loras' is 0"
    if options.compile:
        return "its layers are compiled (--compile)"
    if options.model.ranks > 1:
        return "its layers are spread over several processes (--tensor-parallel-size)"

    def run() -> int | None:
        if isinstance(runner, PerSequenceRunner):
            return runner.run_once(loaded.vocab_size)
        return run_packed_once(loaded.model, loaded.vocab_size, page_size)

    places = find_places(loaded.model, run)
    runner.lora = LoraHooks(places)
    return Base(
        name=loaded.name,
        path=options.model.path,
        fingerprint=loaded.fingerprint,
        places=places,
        vocabulary=loaded.tokenizer.hf.get_vocab,
        dtype=loaded.dtype,
        device=loaded.device,
    )


def _describe(loaded: LoadedModel, runner: Runner, blocks: BlockManager, more: set[str]) -> ModelInfo:
    """`more`: what it can do beside what every model and its chat template can."""
    capabilities = {"completion", "resume", "logprobs"} | chat_capabilities(loaded.chat) | more
    return ModelInfo(
        name=loaded.name,
        fingerprint=loaded.fingerprint,
        context_length=min(loaded.context_length, blocks.total * blocks.page_size),
        capabilities=frozenset(capabilities),
        vocab_size=loaded.vocab_size,
        eos_token_ids=loaded.eos_token_ids,
        architecture=loaded.architecture,
        dtype=str(loaded.dtype).removeprefix("torch."),
        device=str(loaded.device),
        execution=runner.execution,
        parameters=loaded.parameters,
        dialect=loaded.chat.dialect,
    )
