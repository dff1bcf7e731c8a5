"""What a step's logits bring each row: one token, or several where the row had guessed them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from mesh.engine.output import RawLogprob
from mesh.engine.sampler import OnTokens, Sampler
from mesh.engine.transformers.scheduling.sequence import Batch, Row
from mesh.errors import MeshError


@dataclass(slots=True)
class Outcome:
    """A row's new tokens and their log probabilities, of which the last may follow `draft`, the guess.

    `spoilt` says that its logits were not numbers, `error` why its grammar cannot go on.
    """

    row: Row
    draft: list[int]
    place: int  # of its next logits
    tokens: list[int] = field(default_factory=list[int])
    logprobs: list[RawLogprob | None] = field(default_factory=list[RawLogprob | None])
    spoilt: bool = False
    error: MeshError | None = None

    @property
    def goes_on(self) -> bool:
        """Whether the logits after the last token are there: it was guessed, and does not end the row."""
        count = len(self.tokens)
        if self.spoilt or self.error or not 0 < count <= len(self.draft) or self.draft[count - 1] != self.tokens[-1]:
            return False
        return not self.row.ends_with(self.tokens[-1], len(self.row.tokens) + count)


def sample_step(
    sampler: Sampler, batch: Batch, logits: torch.Tensor, on_tokens: OnTokens | None = None
) -> list[Outcome]:
    """Sample a token for each row, then one more for the rows whose guess it was, and so on.

    `on_tokens` is for steps without guesses: see Sampler.sample.

    So every token is drawn as without guesses: from the same distribution, after the same tokens, with the number of
    its own position. `logits` are the runner's and may be overwritten.
    """
    outcomes = _outcomes(batch)
    live = outcomes
    while live:
        places = [outcome.place for outcome in live]
        here = logits if len(places) == len(logits) else logits[torch.tensor(places, device=logits.device)]
        _sample(sampler, live, here, on_tokens)
        live = [outcome for outcome in live if outcome.goes_on]
    return outcomes


def _outcomes(batch: Batch) -> list[Outcome]:
    """One for each sampled row, at the logits that choose its next token."""
    outcomes = [Outcome(row, [], place) for place, row in enumerate(batch.decode)]
    end = len(outcomes)
    for chunk in batch.prefill:
        end += chunk.kept
        if chunk.completes:
            outcomes.append(Outcome(chunk.row, chunk.draft, end - 1 - len(chunk.draft)))
    return outcomes


def _sample(sampler: Sampler, outcomes: list[Outcome], logits: torch.Tensor, on_tokens: OnTokens | None) -> None:
    states = [outcome.row.sampler for outcome in outcomes if outcome.row.sampler is not None]
    sampled = sampler.sample(states, logits, on_tokens)
    for index in sampled.failed:
        outcomes[index].spoilt = True
    for index, error in sampled.stuck.items():
        outcomes[index].error = error
    for outcome, token_id, logprob in zip(outcomes, sampled.token_ids, sampled.logprobs, strict=True):
        outcome.place += 1
        if not outcome.spoilt and outcome.error is None:
            outcome.tokens.append(token_id)
            outcome.logprobs.append(logprob)
