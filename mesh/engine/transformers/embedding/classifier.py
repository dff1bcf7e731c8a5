"""Classes of texts, and of pairs of texts as cross-encoders judge them, from one model with a head for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, cast

import torch

from mesh.engine.base import Text, TextPair
from mesh.engine.text import check_text
from mesh.engine.transformers.embedding.embedder import Embedder, PlainAttention, too_long
from mesh.engine.transformers.loading.loader import LoadedModel
from mesh.engine.transformers.loading.pooling import Pipeline

Activation = Literal["softmax", "sigmoid", "identity"]

# sentence-transformers' names for what comes after a cross-encoder's logits.
_NAMED: Final[dict[str, Activation]] = {"Identity": "identity", "Sigmoid": "sigmoid", "Softmax": "softmax"}
_NO_POOLING: Final = Pipeline("cls", normalizes=False)


class Segmented(list[int]):
    """Token ids of a pair, with the text that each belongs to, for models that are told."""

    def __init__(self, ids: Sequence[int], segments: Sequence[int]) -> None:
        super().__init__(ids)
        self.segments = segments


class Classifier(Embedder):
    """Like an embedder, but its vectors are the logits of classes, `labels` by name. `activation` makes probabilities
    of them, as the model's configuration says."""

    def __init__(
        self, loaded: LoadedModel, attention: PlainAttention, *, most_batch_tokens: int, most_rows: int
    ) -> None:
        super().__init__(loaded, _NO_POOLING, attention, most_batch_tokens=most_batch_tokens, most_rows=most_rows)
        self._body = loaded.model
        names = cast("dict[int, str]", loaded.config.id2label)
        self.labels = tuple(str(names[place]) for place in sorted(names))
        self.activation = activation_of(loaded.config)
        self._has_segments = "token_type_ids" in loaded.tokenizer.hf.model_input_names

    def check(self, vocab_size: int) -> None:
        """See Embedder."""
        try:
            super().check(vocab_size)
        except ValueError:
            # Of several rows, transformers finds the last tokens by the padding's id, and some models have none.
            if not self.size:
                raise
            self.together = False

    def _forward(self, batch: Sequence[Sequence[int]]) -> torch.Tensor:
        """Token ids of each row -> logits [rows, classes], float32 on the CPU."""
        inputs, _ = self._inputs(batch)
        if self._has_segments:
            inputs["token_type_ids"] = self._padded([_segments(ids) for ids in batch], 0)
        with self._attention.set():
            logits: torch.Tensor = cast("Any", self._body)(**inputs, **self._arguments).logits
        return logits.float().cpu()

    def encode_input(self, index: int, given: Text | TextPair, *, truncate: bool) -> list[int]:
        """As `Embedder.encode`; of a pair that is too long, the longer text is cut first."""
        if isinstance(given, Text):
            return self.encode(index, given, truncate=truncate)
        ids, segments = self._encode_pair(given)
        excess = len(ids) - self.most_tokens
        if excess <= 0:
            return Segmented(ids, segments)
        if truncate and (kept := self._kept(given, ids, excess)) is not None:
            return Segmented([ids[place] for place in kept], [segments[place] for place in kept])
        raise too_long(index, len(ids), self.most_tokens)

    def _encode_pair(self, pair: TextPair) -> tuple[list[int], list[int]]:
        for text in (pair.first, pair.second):
            check_text(text, "inputs")
        found: Any = self._tokenizer.hf(pair.first, pair.second, verbose=False)
        ids: list[int] = found["input_ids"]
        return ids, found.get("token_type_ids") or [0] * len(ids)

    def _kept(self, pair: TextPair, ids: list[int], excess: int) -> list[int] | None:
        """The places that are left of a pair; None if its texts are not found in it, or nothing would be left."""
        places: list[range] = []
        begin = 0
        for text in (pair.first, pair.second):
            plain = self._tokenizer.encode(text, add_special_tokens=False)
            found = (at for at in range(begin, len(ids) - len(plain) + 1) if ids[at : at + len(plain)] == plain)
            at = next(found, None)
            if at is None:
                return None
            begin = at + len(plain)
            places.append(range(at, begin))
        first, second = _shortened(len(places[0]), len(places[1]), excess)
        if first + second <= 0:
            return None
        dropped = {*places[0][first:], *places[1][second:]}
        return [place for place in range(len(ids)) if place not in dropped]

    def scores(self, logits: Sequence[torch.Tensor], *, raw: bool) -> list[list[float]]:
        """The scores as they leave."""
        rows = torch.stack(list(logits))
        if not raw and self.activation == "softmax":
            rows = rows.softmax(dim=1)
        elif not raw and self.activation == "sigmoid":
            rows = rows.sigmoid()
        return cast("list[list[float]]", rows.tolist())


def activation_of(config: Any) -> Activation:
    """What a configuration says to make of logits: one of several classes by default, and yes or no of a single one."""
    own = cast("dict[str, object]", getattr(config, "sentence_transformers", None) or {})
    given: object = own.get("activation_fn") or getattr(config, "sbert_ce_default_activation_function", None)
    if (name := str(given).rsplit(".", 1)[-1]) in _NAMED:
        return _NAMED[name]
    if config.problem_type == "regression":
        return "identity"
    return "sigmoid" if config.problem_type == "multi_label_classification" or config.num_labels == 1 else "softmax"


def _segments(ids: Sequence[int]) -> Sequence[int]:
    return ids.segments if isinstance(ids, Segmented) else [0] * len(ids)


def _shortened(first: int, second: int, excess: int) -> tuple[int, int]:
    """The lengths of two texts after so many tokens were taken, one by one, of the longer one."""
    even = (first + second - excess) // 2
    if first <= even:
        return first, first + second - excess - first
    if second <= even:
        return first + second - excess - second, second
    return even, first + second - excess - even


def characters(given: Text | TextPair) -> int:
    """How many an input has."""
    return len(given.text) if isinstance(given, Text) else len(given.first) + len(given.second)
