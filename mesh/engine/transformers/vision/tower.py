"""What a model's decoder is given of pictures, taken from the model's own code.

Families differ in how they look at pictures, but all call their decoder with embeddings in which the pictures are
in place. A hook on the decoder sees them there once per prompt; the same hook puts them into packed steps.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedModel

from mesh.engine.transformers.attention.interface import IntArray
from mesh.engine.transformers.vision.pictures import Pictures

# Inputs that say which tokens are pictures, for positions and masks.
TYPE_IDS = ("mm_token_type_ids", "token_type_ids")


class _Seen(Exception):
    """Ends a forward once the decoder's inputs are known."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What stands in the places of a prompt's pictures: embeddings [places, hidden], and for models that add more of
    the same shape after their first layers, those of each of these layers."""

    embeddings: torch.Tensor
    deeper: list[torch.Tensor] = field(default_factory=list[torch.Tensor])

    def slice(self, first: int, last: int) -> Features:
        """Those of places `first` to `last`."""
        return Features(self.embeddings[first:last], [layer[first:last] for layer in self.deeper])


class Tower:
    """Looks at pictures with a model, and shows what it saw to the model's decoder. On the engine's thread."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._decoder = cast("torch.nn.Module", model.get_decoder())
        self._device, self._dtype = model.device, model.dtype

    def inputs(self, pictures: Pictures) -> dict[str, torch.Tensor]:
        """The model's inputs beside the tokens, on its device and in its number format."""
        return {
            name: value.to(self._device, self._dtype if value.is_floating_point() else None)
            for name, value in pictures.inputs.items()
        }

    def look(self, prompt: Sequence[int], pictures: Pictures) -> Features:
        """The features of a prompt's pictures."""
        inputs = {name: value for name, value in self.inputs(pictures).items() if name not in TYPE_IDS}
        if pictures.positions is not None:
            inputs["position_ids"] = torch.from_numpy(pictures.positions)[:, None].to(self._device)
        given = self.decoder_inputs(prompt, inputs)
        places = torch.from_numpy(pictures.places).to(self._device)
        deeper: list[torch.Tensor] = given.get("deepstack_visual_embeds") or []
        return Features(given["inputs_embeds"][0].index_select(0, places), list(deeper))

    def decoder_inputs(self, prompt: Sequence[int], inputs: dict[str, Any]) -> dict[str, Any]:
        """The keyword arguments that the model calls its decoder with; the decoder itself does not run."""
        given: dict[str, Any] = {}

        def take(_module: torch.nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given.update(kwargs)
            raise _Seen

        hook = self._decoder.register_forward_pre_hook(take, with_kwargs=True)
        try:
            self._model(input_ids=torch.tensor([prompt], device=self._device), use_cache=False, **inputs)
        except _Seen:
            pass
        finally:
            hook.remove()
        return given

    @contextmanager
    def showing(self, shown: Sequence[tuple[IntArray, Features]]) -> Generator[None]:
        """Context in which the decoder is given these features at these indices (rising) of the step's tokens."""
        if not shown:
            yield
            return
        index = torch.from_numpy(np.concatenate([places for places, _ in shown])).to(self._device)
        embeddings = torch.cat([features.embeddings for _, features in shown])
        deeper = [torch.cat(layers) for layers in zip(*(features.deeper for _, features in shown), strict=True)]

        def give(
            _module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            embedded: torch.Tensor = kwargs["inputs_embeds"]
            more: dict[str, Any] = {"inputs_embeds": embedded.index_copy(1, index, embeddings[None])}
            if deeper:
                mask = torch.zeros(embedded.shape[:2], dtype=torch.bool, device=self._device)
                more |= {"visual_pos_masks": mask.index_fill_(1, index, True), "deepstack_visual_embeds": deeper}
            return args, kwargs | more

        hook = self._decoder.register_forward_pre_hook(give, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()
