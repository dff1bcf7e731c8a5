"""The runner for models that cannot be packed: one forward per row and step, over the cache the model makes itself.

State-space and hybrid models, encoder-decoders, and architectures whose attention is their own. Scheduling, sampling,
stopping, resuming and preempting are the same as for packed models; a prompt is computed in one piece, because
recurrent states cannot be entered in the middle, and rows share no pages: those only count tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import PretrainedConfig, PreTrainedModel

from mesh.engine.base import Sampling
from mesh.engine.transformers.lora.hooks import Share
from mesh.engine.transformers.runners.runner import Runner
from mesh.engine.transformers.runners.selftest import relative_difference, tolerance
from mesh.engine.transformers.scheduling.sequence import Batch, Row, Work
from mesh.engine.transformers.vision.pictures import positions
from mesh.engine.transformers.vision.tower import TYPE_IDS, Tower

# What transformers' models call the state that they hand out with `use_cache` and take in again.
_CACHE_NAMES = ("past_key_values", "cache_params", "state")
_TRIAL = 13


def bytes_per_token(config: PretrainedConfig, itemsize: int) -> int:
    """About what a model's cache takes per token; recurrent layers take less."""
    layers: int = config.num_hidden_layers
    if getattr(config, "is_heterogeneous", False):  # the layers' sizes differ
        each: Any = cast(Any, config).per_layer_config
        return sum(_layer_elements(each[layer]) for layer in range(layers)) * itemsize
    return layers * _layer_elements(config) * itemsize


def _layer_elements(config: PretrainedConfig) -> int:
    heads: int = config.num_attention_heads if hasattr(config, "num_attention_heads") else 1
    kv_heads: int = getattr(config, "num_key_value_heads", None) or heads
    head: int = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 2 * kv_heads * head


@dataclass(slots=True)
class _State:
    """What a row keeps between steps: the model's cache, and what the encoder made of the prompt."""

    cache: Any = None
    encoded: Any = None


class PerSequenceRunner(Runner):
    """Runs each row of a step by itself."""

    execution = "per_sequence"
    shares_prefix = False
    chunks = False

    def __init__(self, model: PreTrainedModel, tower: Tower | None = None) -> None:
        """`tower` is given for models that see pictures."""
        self._model = model
        self._tower = tower
        self._places_differ = hasattr(model.base_model, "get_rope_index")
        self._device = model.device
        parameters = inspect.signature(model.forward).parameters
        self._cache_name = next((name for name in _CACHE_NAMES if name in parameters), None)
        self._slices_logits = "logits_to_keep" in parameters
        self._wants_places = "cache_position" in parameters
        self._takes_positions = "position_ids" in parameters
        self._gives_positions = False
        self._states: dict[int, _State] = {}
        generation: Any = model.generation_config
        self._forced_first: int | None = generation.forced_bos_token_id if generation else None
        self._decoder_start = _decoder_start(model) if model.config.is_encoder_decoder else None

    def forward(self, batch: Batch) -> torch.Tensor:
        """See Runner."""
        parts = [self._adapted_row(row) for row in batch.decode]
        parts += [self._adapted_row(chunk.row, chunk.kept) for chunk in batch.prefill]
        return torch.cat(parts)

    def release(self, row: Row) -> None:
        """See Runner."""
        self._states.pop(row.slot, None)

    def wipe(self, pages: Sequence[int]) -> None:
        """See Runner. Rows share no memory."""

    def copy(self, pages: Mapping[int, int]) -> None:
        """See Runner. Rows share no memory."""

    def reset(self) -> None:
        """See Runner."""
        self._states.clear()

    def check_cache(self, vocab_size: int) -> str | None:
        """Compare a short answer with and without the model's cache; on a difference go on without, and say why."""
        if self._cache_name is None:
            return f"the model takes none of {', '.join(_CACHE_NAMES)}"
        ids = [(17 + 7919 * place) % vocab_size for place in range(_TRIAL + 3)]
        name, self._cache_name = self._cache_name, None
        plain = self._trial_logits(ids)
        self._cache_name = name
        reason = self._cache_fault(ids, plain)
        if reason is not None and self._takes_positions:
            # Some models count positions from 0 in each call unless they are told better; others count in a way of
            # their own and must not be told.
            self._gives_positions = True
            if self._cache_fault(ids, plain) is None:
                return None
            self._gives_positions = False
        if reason is not None:
            self._cache_name = None
        return reason

    def _cache_fault(self, ids: list[int], plain: torch.Tensor) -> str | None:
        try:
            difference = relative_difference(self._trial_logits(ids), plain)
        except Exception as error:  # whatever a model's code may raise
            self.reset()
            return f"its cache does not work ({type(error).__name__}: {error})"
        if difference > tolerance(self._model):
            return f"its logits with the cache differ by {difference:.2g} of their size"
        return None

    def run_once(self, vocab_size: int) -> None:
        """Compute a short made-up prompt."""
        ids = [(17 + 7919 * place) % vocab_size for place in range(_TRIAL)]
        row = _trial_row(ids)
        self._row(row)
        self.release(row)

    def _trial_logits(self, ids: list[int]) -> torch.Tensor:
        row = _trial_row(ids[:_TRIAL])
        logits: list[torch.Tensor] = []
        for token in ids[_TRIAL:]:
            logits.append(self._row(row))
            row.computed = len(row.tokens)
            row.tokens.append(token)
        self.release(row)
        return torch.cat(logits)

    def _adapted_row(self, row: Row, kept: int = 1) -> torch.Tensor:
        adapter = row.work.adapter
        with self.adapted([Share(adapter, None)] if adapter is not None else ()):
            return self._row(row, kept)

    def _row(self, row: Row, kept: int = 1) -> torch.Tensor:
        """Logits [kept, vocabulary] of a row's last tokens, of which a decoder beside an encoder keeps one."""
        state = self._states.setdefault(row.slot, _State())
        # A model without a cache gets everything each time.
        done = row.computed if self._cache_name else 0
        if self._decoder_start is None:
            return self._decoder_row(state, row, done, kept)
        prompt = len(row.work.prompt)
        mask = torch.ones((1, prompt), dtype=torch.long, device=self._device)
        if state.encoded is None:
            encode = cast("Callable[..., Any]", self._model.get_encoder())
            state.encoded = encode(input_ids=self._tensor(row.tokens[:prompt]), attention_mask=mask)
        # In the decoder's count, the start token stands for the whole prompt.
        answer = [self._decoder_start, *row.tokens[prompt:]]
        inputs: dict[str, Any] = {"encoder_outputs": state.encoded, "attention_mask": mask}
        logits = self._call(state, "decoder_input_ids", answer, done and done - prompt + 1, inputs)
        if len(answer) == 1 and self._forced_first is not None:
            logits = torch.full_like(logits, -torch.inf)
            logits[:, self._forced_first] = 0
        return logits

    def _decoder_row(self, state: _State, row: Row, done: int, kept: int) -> torch.Tensor:
        prompt, end = len(row.work.prompt), len(row.tokens)
        if row.work.pictures is None or done or end == prompt or not self._cache_name:
            return self._call(state, "input_ids", row.tokens, done, self._sight(row, done, end), kept)
        # The prompt by itself: a generated token that happens to be a picture's would want a picture.
        of_rest = min(kept, end - prompt)
        of_prompt = max(1, kept - of_rest)
        first = self._call(state, "input_ids", row.tokens[:prompt], 0, self._sight(row, 0, prompt), of_prompt)
        rest = self._call(state, "input_ids", row.tokens, prompt, self._sight(row, prompt, end), of_rest)
        return torch.cat([first, rest])[-kept:]

    def _sight(self, row: Row, done: int, until: int) -> dict[str, Any]:
        """What a model that sees pictures takes beside the tokens `done` to `until`."""
        pictures = row.work.pictures
        inputs: dict[str, Any] = {}
        if self._places_differ:
            # For rows without pictures too: the model would go on from the picture it saw last.
            places = torch.from_numpy(positions(pictures, done, until)).to(self._device)
            inputs["position_ids"] = places[None] if places.ndim == 1 else places[:, None]
        if pictures is not None and self._tower is not None and not done:
            inputs |= self._tower.inputs(pictures)
            for name in inputs.keys() & set(TYPE_IDS):
                inputs[name] = torch.nn.functional.pad(inputs[name], (0, until - len(row.work.prompt)))
        return inputs

    def _call(
        self, state: _State, name: str, tokens: Sequence[int], done: int, inputs: dict[str, Any], kept: int = 1
    ) -> torch.Tensor:
        inputs = {name: self._tensor(tokens[done:]), "use_cache": self._cache_name is not None, **inputs}
        # No mask: a row by itself has nothing to hide, and some models take one of the wrong length without a word.
        if self._cache_name:
            inputs[self._cache_name] = state.cache
        places = torch.arange(done, len(tokens), device=self._device)
        if self._wants_places:
            inputs["cache_position"] = places
        if self._gives_positions:
            inputs["position_ids"] = places[None]
        if self._slices_logits:
            inputs["logits_to_keep"] = kept
        output: Any = self._model(**inputs)
        if self._cache_name:
            state.cache = getattr(output, self._cache_name)
        return output.logits[0, -kept:]

    def _tensor(self, tokens: Sequence[int]) -> torch.Tensor:
        return torch.tensor([tokens], device=self._device)


def _trial_row(ids: list[int]) -> Row:
    return Row(Work(key=0, order=0, sampling=Sampling(seed=0), prompt=ids[:]), 0, ids, 0, 0, frozenset(), slot=0)


def _decoder_start(model: PreTrainedModel) -> int:
    for source in (model.generation_config, model.config):
        for name in ("decoder_start_token_id", "bos_token_id"):
            token: int | list[int] | None = getattr(source, name, None)
            if isinstance(token, int):
                return token
    raise ValueError("the model does not say which token its decoder starts with")
