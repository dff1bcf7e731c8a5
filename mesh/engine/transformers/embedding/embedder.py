"""Vectors of texts from one model: batches of padded rows through the model's body, then pooling.

Batches are padded, not packed: encoders attend in both directions, and every model of transformers takes a mask. A
model that also generates has its attention set to ours, so it is set back for the time of a batch.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from mesh.engine.base import Text, Tokens
from mesh.engine.transformers.loading.loader import LoadedModel
from mesh.engine.transformers.loading.pooling import Pipeline
from mesh.engine.transformers.recovery import is_out_of_memory
from mesh.engine.transformers.runners.selftest import relative_difference, tolerance
from mesh.errors import ErrorKind, MeshError, out_of_range

log = logging.getLogger(__name__)

_TRIAL_LENGTHS: Final = (13, 5)


class PlainAttention:
    """A model's attention as it was when this was made; to be made before the model is set to run packed."""

    def __init__(self, model: PreTrainedModel) -> None:
        # The attribute of transformers that its own setter writes, which would also look at every module each time.
        modules = (module for module in model.modules() if isinstance(module, PreTrainedModel))
        configs: dict[int, PretrainedConfig] = {id(module.config): module.config for module in modules}
        self._plain = [(cast("Any", config), _attention(config)) for config in configs.values()]

    @contextmanager
    def set(self) -> Generator[None]:
        """The plain attention, in the context."""
        before = [(config, _attention(config)) for config, _ in self._plain]
        self._write(self._plain)
        try:
            yield
        finally:
            self._write(before)

    def _write(self, values: Sequence[tuple[Any, object]]) -> None:
        for config, value in values:
            config._attn_implementation_internal = value


def _attention(config: PretrainedConfig) -> object:
    return cast("Any", config)._attn_implementation_internal


class Embedder:
    """Computes on the engine's thread; what it is and knows may be read from any.

    `size` is the length of the vectors, `most_tokens` the longest input. `most_batch_tokens` and `most_rows` bound a
    batch, padding included. `together` says whether several inputs may share a batch: the check at load decides.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        pipeline: Pipeline,
        attention: PlainAttention,
        *,
        most_batch_tokens: int,
        most_rows: int,
    ) -> None:
        body: Any = loaded.model.base_model
        self._body = body
        self._pipeline = pipeline
        self._attention = attention
        self._device = loaded.device
        for layer in pipeline.dense:
            layer.to(loaded.device)
        self._tokenizer = loaded.tokenizer
        self._pad = _pad_id(loaded)
        self._arguments = {"use_cache": False} if "use_cache" in inspect.signature(body.forward).parameters else {}
        self.most_batch_tokens = most_batch_tokens
        self.most_rows = most_rows
        self.most_tokens = _most_tokens(loaded, pipeline)
        self.size = 0
        self.together = True

    @property
    def identity(self) -> str:
        """Differs between embedders of one model that give different vectors."""
        return hashlib.sha256(f"{self._pipeline.identity} {self.most_tokens}".encode()).hexdigest()

    # On the engine's thread

    def check(self, vocab_size: int) -> None:
        """Compute two short inputs beside each other and alone. Raises what the model's code raises."""
        lengths = [min(length, self.most_tokens) for length in _TRIAL_LENGTHS]
        ids = [[(17 + 7919 * place + 31 * row) % vocab_size for place in range(n)] for row, n in enumerate(lengths)]
        alone = torch.cat([self._forward([each]) for each in ids])
        self.size = alone.shape[1]
        difference = relative_difference(self._forward(ids), alone)
        if not difference <= tolerance(self._body):
            self.together = False
            log.warning(
                "inputs are embedded one by one: beside each other they differ by %.2g of their size", difference
            )

    def vectors(self, batch: Sequence[Sequence[int]]) -> list[torch.Tensor | MeshError]:
        """A vector [size], float32 on the CPU, or an error for each input of a batch. Does not raise."""
        try:
            rows = self._forward(batch)
        except Exception as error:
            if len(batch) > 1:  # it may be one of them, or all together are too much
                return [found for ids in batch for found in self.vectors([ids])]
            return [_failure(error, len(batch[0]))]
        finite = cast("list[bool]", torch.isfinite(rows).all(dim=1).tolist())
        return [row if good else _not_finite() for row, good in zip(rows, finite, strict=True)]

    def _forward(self, batch: Sequence[Sequence[int]]) -> torch.Tensor:
        """Token ids of each row -> vectors [rows, size], float32 on the CPU."""
        inputs, lengths = self._inputs(batch)
        with self._attention.set():
            output = self._body(**inputs, **self._arguments)
        return self._pipeline.apply(output.last_hidden_state, lengths).cpu()

    def _inputs(self, batch: Sequence[Sequence[int]]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """What the model is given, each [rows, longest], and the lengths of the rows [rows]."""
        padded = self._padded(batch, self._pad)
        lengths = torch.tensor([len(ids) for ids in batch]).to(self._device)
        mask = (torch.arange(padded.shape[1], device=self._device)[None, :] < lengths[:, None]).long()
        return {"input_ids": padded, "attention_mask": mask}, lengths

    def _padded(self, rows: Sequence[Sequence[int]], filling: int) -> torch.Tensor:
        longest = max(map(len, rows))
        return torch.tensor([[*row, *[filling] * (longest - len(row))] for row in rows]).to(self._device)

    # Before and after

    def encode(self, index: int, given: Text | Tokens, *, truncate: bool) -> list[int]:
        """The token ids of an input, cut to the limit if `truncate` says so; raises context_length_exceeded else."""
        if isinstance(given, Tokens):
            ids = list(given.ids)
        else:
            text = given.text.lower() if self._pipeline.lower_case else given.text
            ids = self._tokenizer.encode(text, param="inputs")
            if truncate and len(ids) > self.most_tokens:
                ids = self._cut(ids, self._tokenizer.encode(text, add_special_tokens=False))
        if truncate:
            return ids[: self.most_tokens]
        if len(ids) > self.most_tokens:
            raise too_long(index, len(ids), self.most_tokens)
        return ids

    def _cut(self, ids: list[int], plain: list[int]) -> list[int]:
        """The text shortened, between the same special tokens at both ends."""
        around = len(ids) - len(plain)
        for before in range(around + 1):
            if ids[before : before + len(plain)] == plain:
                room = max(0, self.most_tokens - around)
                return ids[:before] + plain[:room] + ids[before + len(plain) :]
        return ids

    def check_dimensions(self, dimensions: int | None) -> None:
        """Refuse vectors longer than the model's own."""
        if dimensions is not None and not 1 <= dimensions <= self.size:
            raise out_of_range("dimensions", dimensions, 1, self.size)

    def finish(
        self, vectors: Sequence[torch.Tensor], dimensions: int | None, normalize: bool | None
    ) -> list[list[float]]:
        """The vectors as they leave: cut to `dimensions`, then of length 1 where asked for or usual for the model."""
        rows = torch.stack(list(vectors))[:, :dimensions]
        if normalize if normalize is not None else self._pipeline.normalizes:
            rows = nn.functional.normalize(rows, dim=1)
        return cast("list[list[float]]", rows.tolist())


def too_long(index: int, tokens: int, most: int) -> MeshError:
    """The error for an input beyond the limit."""
    text = f"'inputs[{index}]' has {tokens} tokens: this model's maximum context length is {most} tokens"
    return MeshError(ErrorKind.CONTEXT_LENGTH_EXCEEDED, text, param="inputs")


def _failure(error: Exception, tokens: int) -> MeshError:
    """What the client sees of an input that could not be computed alone."""
    if is_out_of_memory(error):
        return MeshError(ErrorKind.OVERLOADED, f"this worker has no memory for an input of {tokens} tokens now")
    log.error("an input could not be embedded", exc_info=error)
    return MeshError(ErrorKind.ENGINE_FAILED, "the engine failed to embed an input")


def _not_finite() -> MeshError:
    return MeshError(ErrorKind.ENGINE_FAILED, "the model's output is not a number")


def _pad_id(loaded: LoadedModel) -> int:
    """The id to pad with. Some models derive positions from it, for the others any will do."""
    for given in (getattr(loaded.config.get_text_config(), "pad_token_id", None), loaded.tokenizer.hf.pad_token_id):
        if isinstance(given, int) and 0 <= given < loaded.vocab_size:
            return given
    return 0


def _most_tokens(loaded: LoadedModel, pipeline: Pipeline) -> int:
    """The longest input: the model's limit, less what it reserves, and what its files say."""
    limits = [loaded.context_length, pipeline.most_tokens]
    positions = getattr(getattr(loaded.model.base_model, "embeddings", None), "position_embeddings", None)
    if isinstance(positions, nn.Embedding) and positions.padding_idx is not None:
        limits.append(positions.num_embeddings - positions.padding_idx - 1)  # they are counted from the padding's on
    if not loaded.generates:
        limits.append(cast("int", loaded.tokenizer.hf.model_max_length))
    return min(limit for limit in limits if limit is not None)
