"""From a loaded model to what embeds with it, and to an engine around a model that does nothing else."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence

import torch

from mesh.engine.base import ModelInfo
from mesh.engine.sampler import Sampler
from mesh.engine.transformers.core import Core
from mesh.engine.transformers.embedding.classifier import Classifier
from mesh.engine.transformers.embedding.embedder import Embedder, PlainAttention
from mesh.engine.transformers.layers.prepack import prepack
from mesh.engine.transformers.loading.loader import LoadedModel
from mesh.engine.transformers.loading.pooling import read_pipeline
from mesh.engine.transformers.options import EngineOptions
from mesh.engine.transformers.runners.runner import Runner
from mesh.engine.transformers.scheduling.blocks import BlockManager
from mesh.engine.transformers.scheduling.scheduler import Limits, Scheduler
from mesh.engine.transformers.scheduling.sequence import Batch, Row
from mesh.errors import invalid
from mesh.log import kv

log = logging.getLogger(__name__)

# Tokens of a batch, padding included, where no answers wait for it.
_BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}


def make_embedder(
    options: EngineOptions, loaded: LoadedModel, attention: PlainAttention, step_tokens: int
) -> Embedder | None:
    """The embedder of a model that generates too; None if the model's body cannot embed."""
    if loaded.config.is_encoder_decoder:
        return _not_able(options, loaded, "it has an encoder and a decoder")
    try:
        # A batch comes between two steps: it may take as long as one.
        return _checked(options, loaded, attention, most_batch_tokens=step_tokens)
    except Exception as error:  # whatever an unknown model's code may raise
        return _not_able(options, loaded, f"{type(error).__name__}: {error}")


def _not_able(options: EngineOptions, loaded: LoadedModel, reason: str) -> None:
    if options.pooling is not None:
        raise invalid("pooling", f"'pooling' cannot be used: {loaded.architecture} does not embed, as {reason}")
    log.info("%s does not embed: %s", loaded.architecture, reason)


def make_headless(
    options: EngineOptions, loaded: LoadedModel, attention: PlainAttention
) -> tuple[Core, ModelInfo, Embedder]:
    """The engine of a model without a head for generation, which embeds or, by a Classifier, classifies; nothing is
    ever scheduled on its core."""
    if options.prepack:
        prepack(loaded.model, loaded.vocab_size)
    tokens = options.step_tokens or _BATCH_TOKENS.get(loaded.device.type, _BATCH_TOKENS["cpu"])
    if loaded.classifies:
        embedder: Embedder = _classifier(options, loaded, attention, most_batch_tokens=tokens)
    else:
        embedder = _checked(options, loaded, attention, most_batch_tokens=tokens)
    runner = NoRunner()
    limits = Limits(options.max_rows, tokens, chunked_prefill=False)
    scheduler = Scheduler(limits, BlockManager(2, 1), runner.release)
    info = ModelInfo(
        name=loaded.name,
        fingerprint=hashlib.sha256(f"{loaded.fingerprint} {embedder.identity}".encode()).hexdigest()[:32],
        context_length=embedder.most_tokens,
        capabilities=frozenset({"classify" if loaded.classifies else "embed"}),
        vocab_size=loaded.vocab_size,
        architecture=loaded.architecture,
        dtype=str(loaded.dtype).removeprefix("torch."),
        device=str(loaded.device),
        parameters=loaded.parameters,
    )
    does = "classes" if loaded.classifies else "embeds"
    log.info("model ready", extra=kv(model=info.name, tokens=embedder.most_tokens, **{does: embedder.size}))
    return Core(runner, Sampler(loaded.vocab_size, loaded.device, ()), scheduler), info, embedder


def _checked(
    options: EngineOptions, loaded: LoadedModel, attention: PlainAttention, *, most_batch_tokens: int
) -> Embedder:
    # Encoders see the whole text at each place, in a decoder only the last place does.
    pipeline = read_pipeline(loaded.folder, options.pooling, "last" if _is_causal(loaded) else "mean")
    embedder = Embedder(loaded, pipeline, attention, most_batch_tokens=most_batch_tokens, most_rows=options.max_rows)
    embedder.check(loaded.vocab_size)
    return embedder


def _classifier(
    options: EngineOptions, loaded: LoadedModel, attention: PlainAttention, *, most_batch_tokens: int
) -> Classifier:
    if options.pooling is not None:
        raise invalid("pooling", f"'pooling' cannot be used: {loaded.architecture} classifies and does not embed")
    classifier = Classifier(loaded, attention, most_batch_tokens=most_batch_tokens, most_rows=options.max_rows)
    classifier.check(loaded.vocab_size)
    return classifier


def _is_causal(loaded: LoadedModel) -> bool:
    """Whether each token sees only those before it, as far as the attention modules say."""
    causal = [getattr(module, "is_causal", None) for module in loaded.model.modules()]
    return loaded.generates or (any(causal) and False not in causal)


class NoRunner(Runner):
    """Runs nothing: the core of a model that only embeds has no rows."""

    execution = ""
    shares_prefix = False
    chunks = False

    def forward(self, batch: Batch) -> torch.Tensor:
        """See Runner."""
        raise AssertionError("a model that only embeds has no steps")

    def release(self, row: Row) -> None:
        """See Runner."""

    def copy(self, pages: Mapping[int, int]) -> None:
        """See Runner."""

    def wipe(self, pages: Sequence[int]) -> None:
        """See Runner."""

    def reset(self) -> None:
        """See Runner."""
