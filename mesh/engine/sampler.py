"""Batched sampling with options per row, on the engine's thread.

Order per row: the grammar's mask, repetition penalty, frequency and presence penalty, logit bias, min_tokens; then
temperature, top_k, top_p, min_p, typical_p; then one draw by the uniform number of (seed, choice, position).
Temperature 0 and top_k 1 take the most likely token, the lowest id among equals. Options that nobody in the batch uses
cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray

from mesh.engine.base import Sampling
from mesh.engine.constraint import Matcher
from mesh.engine.filters import draw, keep_min_p, keep_top, keep_typical, padded_width
from mesh.engine.masks import Masks
from mesh.engine.output import check_token_ids
from mesh.engine.uniform import stream, uniforms
from mesh.errors import MeshError

RowLogprob = tuple[float, list[tuple[int, float]]]
"""A chosen token's logprob and the most likely (token id, logprob), most likely first."""

OnTokens = Callable[[torch.Tensor], None]

# Logits divided by less than this differ by more than float32's exponential can tell apart: greedy.
_GREEDY_BELOW: Final = 1e-5
_LARGEST: Final = torch.finfo(torch.float32).max


class _Penalties:
    """The tokens of one row that are penalised, as growing arrays: no pass over the vocabulary, none over history."""

    def __init__(self, sampling: Sampling, prompt_ids: Sequence[int], generated_ids: Sequence[int]) -> None:
        self._repetition = sampling.repetition_penalty
        self._frequency = sampling.frequency_penalty
        self._presence = sampling.presence_penalty
        self._place: dict[int, int] = {}
        self._ids = np.zeros(64, np.int64)
        self._counts = np.zeros(64, np.float32)
        if self._repetition != 1.0:
            for token_id in prompt_ids:
                self._place_of(token_id)
        for token_id in generated_ids:
            self.add(token_id)

    def add(self, token_id: int) -> None:
        """Count one token of the output."""
        place = self._place_of(token_id)  # may replace the arrays
        self._counts[place] += 1

    def _place_of(self, token_id: int) -> int:
        place = self._place.setdefault(token_id, len(self._place))
        if place == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[place] = token_id
        return place

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Token ids, what each one's logit is divided by, and what is then subtracted."""
        size = len(self._place)
        counts = self._counts[:size]
        minus = self._frequency * counts + self._presence * (counts > 0)
        return self._ids[:size], np.full(size, self._repetition, np.float32), minus.astype(np.float32)


class RowState:
    """What the sampler keeps for one row, that is one choice of one request; opaque to others except `position`.

    `position` is the number of tokens of the completion so far, resumed ones included.
    """

    __slots__ = (
        "bias",
        "filtered",
        "forbidden",
        "greedy",
        "logprobs",
        "matcher",
        "penalties",
        "position",
        "sampling",
        "stream",
    )

    def __init__(
        self,
        sampling: Sampling,
        choice: int,
        prompt_ids: Sequence[int],
        generated_ids: Sequence[int],
        eos_token_ids: Iterable[int],
        logprobs: int | None,
        matcher: Matcher | None,
    ) -> None:
        self.sampling = sampling
        self.position = len(generated_ids)
        self.stream = stream(sampling.seed, choice)
        self.logprobs = logprobs
        self.matcher = matcher
        self.greedy = sampling.temperature < _GREEDY_BELOW or sampling.top_k == 1
        self.filtered = sampling.top_k > 0 or sampling.top_p < 1.0
        penalised = sampling.repetition_penalty != 1.0 or sampling.frequency_penalty or sampling.presence_penalty
        self.penalties = _Penalties(sampling, prompt_ids, generated_ids) if penalised else None
        self.bias = sampling.logit_bias or None
        self.forbidden = sorted({*eos_token_ids, *sampling.stop_token_ids}) if sampling.min_tokens else []

    def advance(self, token_id: int) -> bool:
        """Take note of a token that was chosen; False when the row's grammar cannot go on with it."""
        self.position += 1
        if self.penalties is not None:
            self.penalties.add(token_id)
        return self.matcher is None or self.matcher.accept(token_id)


@dataclass(slots=True)
class SampledBatch:
    """Result of one call; the lists are parallel to the rows.

    `token_ids` holds -1 at failed rows. `logprobs` is None at rows that did not ask. `failed` are the rows whose
    logits held NaN, infinity, or nothing finite; `stuck` are those whose grammar broke down, with the reason.
    """

    token_ids: list[int]
    logprobs: list[RowLogprob | None]
    failed: list[int]
    stuck: dict[int, MeshError] = field(default_factory=dict[int, MeshError])


@dataclass(slots=True)
class _Plan:
    """What stays the same while a batch keeps its rows: who is drawn for, and their options as tensors."""

    greedy: list[int]
    drawn: list[int]
    streams: NDArray[np.uint64]
    temperatures: torch.Tensor
    filtered: list[int]  # places within `drawn`, as below
    top_k: torch.Tensor  # on the CPU, where it is looked at
    top_p: torch.Tensor
    min_p: torch.Tensor | None
    typical: list[tuple[int, float]]


class Sampler:
    """Chooses the next token of many rows at once. Not thread-safe: it belongs to the engine's thread."""

    def __init__(self, vocab_size: int, device: torch.device | str, eos_token_ids: Sequence[int] = ()) -> None:
        """`vocab_size` is the width of the logits; `eos_token_ids` are what min_tokens forbids besides stop ids."""
        self._vocab_size = vocab_size
        # The sums need float64, which mps has not; memory is shared there, so that the way to the CPU is short.
        self._device = torch.device("cpu" if torch.device(device).type == "mps" else device)
        self._eos = tuple(token_id for token_id in eos_token_ids if 0 <= token_id < vocab_size)
        self._masks = Masks(vocab_size, self._device)
        self._rows: list[RowState] = []
        self._plan: _Plan | None = None

    def add(
        self,
        sampling: Sampling,
        choice: int,
        prompt_ids: Sequence[int],
        generated_ids: Sequence[int] = (),
        *,
        logprobs: int | None = None,
        matcher: Matcher | None = None,
    ) -> RowState:
        """State of a new or resumed row; `logprobs` is Output.logprobs of the request.

        `matcher` is the row's own, and where the row is. Raises invalid_request for ids outside the vocabulary in
        logit_bias and stop_token_ids.
        """
        check_token_ids(sampling, self._vocab_size)
        return RowState(sampling, choice, prompt_ids, generated_ids, self._eos, logprobs, matcher)

    def remove(self, row: RowState) -> None:
        """Forget a row that has ended."""
        if row in self._rows:
            self._rows, self._plan = [], None

    def sample(self, rows: Sequence[RowState], logits: torch.Tensor, on_tokens: OnTokens | None = None) -> SampledBatch:
        """Choose one token per row and advance the rows, except failed ones.

        `on_tokens` is called with the token ids [len(rows)] on the device before the host waits for them; those of
        failed rows mean nothing.

        `logits` is [len(rows), vocab_size] of any float type and may be overwritten. One transfer from the device;
        one more when some row uses top_k or top_p.
        """
        logits = logits.to(self._device, torch.float32)
        asked = [index for index, row in enumerate(rows) if row.logprobs is not None]
        raw = logits[self._index(asked)] if asked else None
        self._constrain(rows, logits)
        self._edit(rows, logits)
        token_ids, finite = self._choose(self._planned(rows), rows, logits)
        then = None if on_tokens is None else partial(on_tokens, token_ids)
        if raw is None:
            return self._batch(rows, _transfer([token_ids, finite], then), [], 0)
        width = min(max(row.logprobs or 0 for row in rows), self._vocab_size)
        chosen, top_values, top_ids = self._logprobs(raw, token_ids[self._index(asked)], width)
        parts = [token_ids, finite, chosen, top_values.flatten(), top_ids.flatten()]
        return self._batch(rows, _transfer(parts, then), asked, width)

    def score(self, logits: torch.Tensor, token_ids: Sequence[int], top: int) -> list[RowLogprob]:
        """Log probabilities of given tokens, one per row of `logits` [N, vocab_size], and of the `top` likeliest."""
        raw = logits.to(self._device, torch.float32)
        found = self._logprobs(raw, self._index(token_ids), min(top, self._vocab_size))
        chosen, values, ids = (cast("list[Any]", part.tolist()) for part in found)
        return [
            (logprob, list(zip(top_ids, top_values, strict=True)))
            for logprob, top_ids, top_values in zip(chosen, ids, values, strict=True)
        ]

    def _index(self, places: Sequence[int]) -> torch.Tensor:
        return torch.tensor(places, dtype=torch.int64, device=self._device)

    def _constrain(self, rows: Sequence[RowState], logits: torch.Tensor) -> None:
        matchers = {index: row.matcher for index, row in enumerate(rows) if row.matcher is not None}
        if not matchers:
            return
        forbidden = self._masks.forbidden(list(matchers.values()))
        if len(matchers) == len(rows):
            logits.masked_fill_(forbidden, -torch.inf)
        else:
            places = self._index(list(matchers))
            logits[places] = logits[places].masked_fill(forbidden, -torch.inf)

    def _edit(self, rows: Sequence[RowState], logits: torch.Tensor) -> None:
        penalised = [(index, row.penalties.arrays()) for index, row in enumerate(rows) if row.penalties is not None]
        if penalised:
            where = self._where([(index, arrays[0]) for index, arrays in penalised])
            divide = self._floats([arrays[1] for _, arrays in penalised])
            minus = self._floats([arrays[2] for _, arrays in penalised])
            values = logits[where]
            edited = torch.where(values > 0, values / divide, values * divide) - minus
            # What was finite stays so: an overflow is no sign of a broken model.
            logits[where] = torch.where(values.isfinite(), edited.clamp(-_LARGEST, _LARGEST), values)
        biased = [(index, row.bias) for index, row in enumerate(rows) if row.bias is not None]
        if biased:
            where = self._where([(index, np.array(list(bias), np.int64)) for index, bias in biased])
            logits[where] += self._floats([np.array(list(bias.values()), np.float32) for _, bias in biased])
        early = [
            (index, np.array(row.forbidden, np.int64))
            for index, row in enumerate(rows)
            if row.forbidden and row.position < row.sampling.min_tokens
        ]
        if early:
            logits[self._where(early)] = -torch.inf

    def _where(self, entries: list[tuple[int, NDArray[np.int64]]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Row and column indices of (row, token ids) entries."""
        rows = np.repeat([index for index, _ in entries], [len(ids) for _, ids in entries])
        ids = np.concatenate([ids for _, ids in entries])
        return torch.from_numpy(rows).to(self._device), torch.from_numpy(ids).to(self._device)

    def _floats(self, arrays: list[NDArray[np.float32]]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(arrays)).to(self._device)

    def _planned(self, rows: Sequence[RowState]) -> _Plan:
        if self._plan is None or self._rows != rows:
            self._rows = list(rows)
            self._plan = self._make_plan(rows)
        return self._plan

    def _make_plan(self, rows: Sequence[RowState]) -> _Plan:
        drawn = [index for index, row in enumerate(rows) if not row.greedy]
        options = [rows[index].sampling for index in drawn]
        filtered = [place for place, index in enumerate(drawn) if rows[index].filtered]
        min_p = [option.min_p for option in options]
        return _Plan(
            greedy=[index for index, row in enumerate(rows) if row.greedy],
            drawn=drawn,
            streams=np.array([rows[index].stream for index in drawn], np.uint64),
            temperatures=torch.tensor([[option.temperature] for option in options], device=self._device),
            filtered=filtered,
            top_k=torch.tensor([max(options[place].top_k, 0) for place in filtered], dtype=torch.int64),
            top_p=torch.tensor([options[place].top_p for place in filtered], dtype=torch.float64),
            min_p=torch.tensor(min_p, device=self._device) if any(min_p) else None,
            typical=[(place, option.typical_p) for place, option in enumerate(options) if option.typical_p < 1.0],
        )

    def _choose(self, plan: _Plan, rows: Sequence[RowState], logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids [B] and whether each row was sound [B]."""
        if not plan.drawn:
            return _most_likely(logits)
        if not plan.greedy:
            return self._draw(plan, rows, logits)
        greedy, drawn = self._index(plan.greedy), self._index(plan.drawn)
        token_ids = torch.empty(len(rows), dtype=torch.int64, device=self._device)
        finite = torch.empty(len(rows), dtype=torch.bool, device=self._device)
        token_ids[greedy], finite[greedy] = _most_likely(logits[greedy])
        token_ids[drawn], finite[drawn] = self._draw(plan, rows, logits[drawn])
        return token_ids, finite

    def _draw(self, plan: _Plan, rows: Sequence[RowState], logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        positions = np.array([rows[index].position for index in plan.drawn], np.uint64)
        numbers = torch.from_numpy(uniforms(plan.streams, positions)).to(self._device)
        most = logits.amax(-1, keepdim=True)
        size = self._vocab_size
        padded = torch.empty(len(plan.drawn), padded_width(size), device=self._device)
        padded[:, size:] = 0.0
        weights = padded[:, :size]
        # Relative to the likeliest token, so that no temperature overflows.
        torch.sub(logits, most, out=weights).div_(plan.temperatures).exp_()
        finite = most[:, 0].isfinite()
        self._filter(plan, padded)
        # A row without weight, a broken one, draws a place in the padding.
        return draw(padded, numbers).clamp_(max=size - 1), finite

    def _filter(self, plan: _Plan, weights: torch.Tensor) -> None:
        if len(plan.filtered) == len(plan.drawn):
            keep_top(weights, plan.top_k, plan.top_p)
        elif plan.filtered:
            places = self._index(plan.filtered)
            some = weights[places]
            keep_top(some, plan.top_k, plan.top_p)
            weights[places] = some
        if plan.min_p is not None:
            keep_min_p(weights, plan.min_p)
        for place, typical_p in plan.typical:
            keep_typical(weights[place], typical_p)

    def _logprobs(
        self, raw: torch.Tensor, token_ids: torch.Tensor, width: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logprobs of the chosen tokens, then values and ids of the likeliest, under the model's own distribution."""
        norm = raw.logsumexp(-1, keepdim=True)
        chosen = (raw.gather(1, token_ids[:, None]) - norm)[:, 0]
        top = raw.topk(width)
        return chosen, top.values - norm, top.indices

    def _batch(self, rows: Sequence[RowState], packed: list[float], asked: list[int], width: int) -> SampledBatch:
        size, count = len(rows), len(asked)
        token_ids = [int(token_id) for token_id in packed[:size]]
        failed = [index for index, finite in enumerate(packed[size : 2 * size]) if not finite]
        logprobs: list[RowLogprob | None] = [None] * size
        values, ids = 2 * size + count, 2 * size + count + count * width
        for place, index in enumerate(asked):
            wanted = min(rows[index].logprobs or 0, width)
            start = place * width
            top_ids = map(int, packed[ids + start : ids + start + wanted])
            top = list(zip(top_ids, packed[values + start : values + start + wanted], strict=True))
            logprobs[index] = (packed[2 * size + place], top)
        for index in failed:
            token_ids[index], logprobs[index] = -1, None
        stuck: dict[int, MeshError] = {}
        for index, row in enumerate(rows):
            if token_ids[index] >= 0 and not row.advance(token_ids[index]) and row.matcher is not None:
                stuck[index] = row.matcher.error
                token_ids[index], logprobs[index] = -1, None
        return SampledBatch(token_ids, logprobs, failed, stuck)


def _most_likely(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    # On CPUs by numpy, which takes a tenth of the time, the same token among equal ones and NaN in the same way.
    on_cpu = logits.device.type == "cpu"
    token_ids = torch.from_numpy(logits.numpy().argmax(-1)) if on_cpu else logits.argmax(-1)
    # argmax takes NaN for the largest number, so that the value found tells whether the row is sound.
    return token_ids, logits.gather(1, token_ids[:, None])[:, 0].isfinite()


def _transfer(parts: list[torch.Tensor], then: Callable[[], None] | None = None) -> list[float]:
    """One transfer for all results; float64 holds ids and logprobs exactly. `then` is called while it is under way."""
    whole = torch.cat([part.double() for part in parts])
    if then is None:
        return cast("list[float]", whole.tolist())
    if not whole.is_cuda:
        then()
        return cast("list[float]", whole.tolist())
    host = torch.empty(whole.shape, dtype=whole.dtype, pin_memory=True)
    host.copy_(whole, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    then()
    arrived.synchronize()
    return cast("list[float]", host.tolist())
