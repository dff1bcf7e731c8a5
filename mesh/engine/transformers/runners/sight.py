"""Whether a model that is made to see can be used so, and how: tried with a picture when it is loaded."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch

from mesh.engine.base import Chat, Image, Message, Sampling
from mesh.engine.transformers.attention.interface import NAME, PackingError
from mesh.engine.transformers.attention.kernels import Kernels
from mesh.engine.transformers.attention.kv_cache import KvCache
from mesh.engine.transformers.loading.loader import LoadedModel
from mesh.engine.transformers.runners.packed import PackedRunner
from mesh.engine.transformers.runners.selftest import attend_by, relative_difference, tolerance
from mesh.engine.transformers.scheduling.sequence import Batch, Chunk, Row, Work
from mesh.engine.transformers.vision.pictures import PictureReader, Pictures, positions
from mesh.engine.transformers.vision.tower import TYPE_IDS, Tower

log = logging.getLogger(__name__)

# Tokens after the prompt of the trial.
_ANSWER = 3


def find_sight(loaded: LoadedModel) -> Sight | None:
    """How the model sees; None, said in the log, for one that is made to see and does not get through a picture."""
    if loaded.processor is None:
        return None
    try:
        return Sight(loaded)
    except Exception as error:  # whatever a model's own code may raise
        log.warning("%s is served without its sight: %s", loaded.architecture, error)
        return None


@dataclass(frozen=True, slots=True)
class _Example:
    """A prompt with a picture, and an answer of any tokens."""

    prompt: list[int]
    answer: list[int]
    pictures: Pictures


class Sight:
    """A model's sight: `reader` for the event loop's side, `tower` for the engine's thread."""

    def __init__(self, loaded: LoadedModel) -> None:
        """Raises any exception for a model that cannot be shown a picture."""
        assert loaded.processor is not None
        self.reader = PictureReader(loaded.model, loaded.processor, loaded.chat)
        self.tower = Tower(loaded.model)
        self._model = loaded.model
        config = loaded.model.config.get_text_config(decoder=True)
        self._attention: str | None = config._attn_implementation  # pyright: ignore[reportPrivateUsage]
        if self.reader.token_id >= loaded.vocab_size:
            raise ValueError(f"its image token {self.reader.token_id} is outside of its vocabulary")
        prompt, pictures = self.reader.encode(_conversation())
        self._example = _Example(prompt, [(17 + 31 * place) % loaded.vocab_size for place in range(_ANSWER)], pictures)
        if len(prompt) + _ANSWER > loaded.context_length:
            raise ValueError(f"one image takes {len(prompt)} tokens, of a context of {loaded.context_length}")
        self.tower.look(prompt, pictures)

    def check_packed(self, page_size: int, kernels: Kernels | None) -> str | None:
        """Why pictures cannot be part of packed steps, None if they can.

        On success the attention of the model's decoder is ours from now on, else it is as when this object was made.
        """
        try:
            attend_by(self._model, "eager")
            self.reader.mutual = self._sees_itself()
            prompt, pictures = self.reader.encode(_conversation())
            self._example = _Example(prompt, self._example.answer, pictures)
            expected = self._plain()
            attend_by(self._model, NAME)
            difference = relative_difference(self._packed(page_size, kernels), expected)
            if difference <= tolerance(self._model):
                return None
            reason = f"its packed logits differ by {difference:.2g} of their size"
        except PackingError as error:
            reason = str(error)
        except Exception as error:  # whatever a model's own code may raise
            reason = f"{type(error).__name__}: {error}"
        self.reader.mutual = False
        attend_by(self._model, self._attention)
        return f"with an image, {reason}"

    def _inputs(self, tokens: int) -> dict[str, Any]:
        """The model's inputs beside so many tokens."""
        pictures = self._example.pictures
        inputs: dict[str, Any] = self.tower.inputs(pictures)
        for name in inputs.keys() & set(TYPE_IDS):
            inputs[name] = torch.nn.functional.pad(inputs[name], (0, tokens - len(self._example.prompt)))
        if pictures.positions is not None:
            inputs["position_ids"] = torch.from_numpy(positions(pictures, 0, tokens))[:, None].to(self._model.device)
        return inputs

    def _sees_itself(self) -> bool:
        """Whether a picture's tokens see each other, told by the mask that the model makes for its decoder."""
        prompt, pictures = self._example.prompt, self._example.pictures
        mask = self.tower.decoder_inputs(prompt, self._inputs(len(prompt))).get("attention_mask")
        if isinstance(mask, dict):
            mask = mask.get("full_attention")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if not isinstance(mask, torch.Tensor) or mask.ndim != 4:
            return False  # the decoder makes its own, which is causal
        sees = (mask[0, 0] if mask.dtype == torch.bool else mask[0, 0] == 0).cpu().numpy()
        causal = np.tri(len(prompt), dtype=bool)
        runs = pictures.runs
        mutual = causal | ((runs[:, None] == runs) & (runs >= 0))
        if np.array_equal(sees, causal):
            return False
        if np.array_equal(sees, mutual):
            return True
        raise PackingError("its images change what other tokens see")

    def _plain(self) -> torch.Tensor:
        """Logits of the answer's tokens and of the one after the prompt, by one plain forward."""
        tokens = self._example.prompt + self._example.answer
        ids = torch.tensor([tokens], device=self._model.device)
        output: Any = self._model(input_ids=ids, use_cache=False, **self._inputs(len(tokens)))
        return output.logits[0, len(self._example.prompt) - 1 :]

    def _packed(self, page_size: int, kernels: Kernels | None) -> torch.Tensor:
        """The same by packed steps: the prompt in pieces, then token by token, beside a row of text."""
        prompt, answer = self._example.prompt, self._example.answer
        pages = -(-(len(prompt) + len(answer)) // page_size)
        cache = KvCache(1 + 2 * pages, page_size, self._model.dtype, self._model.device)
        runner = PackedRunner(self._model, cache, 2, pages, kernels, self.tower)
        work = Work(0, 0, Sampling(seed=0), prompt, pictures=self._example.pictures)
        row = Row(work, 0, prompt[:], 0, 0, frozenset(), slot=0, pages=list(range(1, 1 + pages)))
        text = Row(Work(1, 1, Sampling(seed=0), []), 0, [7, 8, 9], 0, 0, frozenset(), slot=1, pages=[1 + pages])
        logits: list[torch.Tensor] = []
        found = torch.empty(0)
        while row.remaining:
            count = row.piece(min(row.remaining, max(2, len(prompt) // 2)), at_least_one=True)
            chunks = [Chunk(text, text.remaining, 1)] if text.remaining else []
            found = runner.forward(Batch([], [*chunks, Chunk(row, count, int(count == row.remaining))]))
            row.computed += count
            text.computed = len(text.tokens)
        logits.append(found[-1])
        for token in answer:
            row.tokens.append(token)
            text.tokens.append(token)
            batch = Batch([row, text])
            logits.append(runner.forward(batch)[batch.decode.index(row)])
            row.computed += 1
            text.computed += 1
        return torch.stack(logits)


def _conversation() -> Chat:
    """A picture between two texts: stripes of two colours, so that its parts differ."""
    rows, columns = np.mgrid[:48, :64]
    pixels = np.stack([rows * 5, columns * 3, (rows + columns) % 7 * 36], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return Chat((Message("user", ("Look:", Image(file.getvalue(), "image/png"), "What is it?")),))
