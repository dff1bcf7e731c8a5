"""From the pictures of a conversation to what the model is given of them: decoded, resized, and laid out in tokens.

All of it runs off the event loop and off the engine's thread.
"""

from __future__ import annotations

import inspect
import io
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Final, cast

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from transformers import PreTrainedModel, ProcessorMixin

from mesh.engine.base import Chat, Image
from mesh.engine.chat import ChatRenderer
from mesh.engine.transformers.attention.interface import IntArray
from mesh.errors import MeshError, invalid, unsupported

# What is decoded at all: the formats of OpenAI's API.
_FORMATS: Final = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP", "image/gif": "GIF"}
# A file of a few bytes can hold a picture of any size: 40 million pixels are 120 MB.
MOST_PIXELS: Final = 40_000_000
MOST_IMAGES: Final = 32
# OpenAI's `low`: the longest side that is looked at.
_LOW_DETAIL: Final = 512


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """The pictures of one prompt.

    `inputs` is what the model takes beside the tokens, on the CPU. `places` are the indices of the tokens that stand
    for picture content, rising, and `runs` [tokens] says which run of neighbours each token of the prompt belongs to,
    from 0 on, -1 for text. With `mutual` the tokens of a run see each other, later ones too. `keys` are the prompt's
    tokens with those of pictures replaced by numbers made of the content, for the prefix cache. `positions`
    [3, tokens] and `shift` are there for models that count positions in three dimensions: those of the prompt, and
    what is to be added to a later token's index.
    """

    inputs: Mapping[str, torch.Tensor]
    places: IntArray
    runs: IntArray
    keys: list[int]
    mutual: bool = False
    positions: IntArray | None = None
    shift: int = 0

    def piece(self, start: int, count: int, *, at_least_one: bool) -> int:
        """The number of tokens from `start` on, at most `count`, that a step may compute: a run of a picture that sees
        itself stays whole. When nothing is left of `count`, the run itself if `at_least_one`, else 0."""
        runs, end = self.runs, start + count
        if not self.mutual or end >= len(runs) or runs[end] < 0 or runs[end] != runs[end - 1]:
            return count
        run = np.flatnonzero(runs == runs[end])
        first, last = int(run[0]), int(run[-1]) + 1
        if first > start:
            return first - start
        return last - start if at_least_one else 0


def decode(image: Image, where: str = "an image") -> PIL.Image.Image:
    """The picture in RGB as a person sees it: turned as its camera noted, on white where it is transparent.

    Raises invalid_request for anything else than a whole PNG, JPEG, WebP or GIF of at most MOST_PIXELS.
    """
    if image.media_type and image.media_type not in _FORMATS:
        known = ", ".join(_FORMATS)
        raise invalid("messages", f"{where} has the media type '{image.media_type[:64]}': must be one of {known}")
    try:
        with PIL.Image.open(io.BytesIO(image.data), formats=list(_FORMATS.values())) as opened:
            pixels = opened.width * opened.height
            if pixels > MOST_PIXELS:
                raise invalid("messages", f"{where} must have at most {MOST_PIXELS} pixels, not {pixels}")
            picture = PIL.ImageOps.exif_transpose(opened)
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                picture = PIL.Image.alpha_composite(PIL.Image.new("RGBA", picture.size, "white"), picture)
            picture = picture.convert("RGB")
    except MeshError:
        raise
    except Exception as error:  # whatever a damaged file makes Pillow raise, its guard against huge ones included
        raise invalid("messages", f"{where} is not a whole PNG, JPEG, WebP or GIF file: {_one_line(error)}") from error
    if image.detail == "low":
        picture.thumbnail((_LOW_DETAIL, _LOW_DETAIL))
    return picture


def positions(pictures: Pictures | None, first: int, last: int) -> IntArray:
    """The positions of tokens `first` to `last` of a row: [tokens], or [3, tokens] where they differ by dimension."""
    if pictures is None or pictures.positions is None:
        return np.arange(first, last)
    prompt = pictures.positions.shape[1]
    later = np.arange(max(first, prompt), last) + pictures.shift
    if first >= prompt:
        return later
    of_prompt = pictures.positions[:, first:last]
    return np.concatenate([of_prompt, np.broadcast_to(later, (3, len(later)))], axis=1)


class PictureReader:
    """Encodes conversations that show pictures, through the model's own template and processor."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, chat: ChatRenderer) -> None:
        """Raises ValueError for a model that does not say which token stands for a picture.

        `mutual` is to be set for a model whose pictures' tokens see each other.
        """
        token: int | None = getattr(model.config, "image_token_id", None)
        if token is None:
            raise ValueError("its configuration names no image token")
        self.token_id = token
        self._processor = processor
        self._chat = chat
        self.mutual = False
        self._lock = threading.Lock()  # a tokenizer's settings are changed while it works
        self._accepted = frozenset(inspect.signature(model.forward).parameters)
        self._rope_index: Any = getattr(model.base_model, "get_rope_index", None)
        own: Any = processor
        marks = [getattr(own, name, None) for name in ("image_token", "boi_token")]
        self._marks = {mark for mark in [*marks, own.tokenizer.convert_ids_to_tokens(token)] if mark}

    def encode(self, chat: Chat) -> tuple[list[int], Pictures]:
        """Token ids of the rendered conversation, and its pictures. Raises invalid_request (messages)."""
        given = [part for message in chat.messages for part in message.parts or () if isinstance(part, Image)]
        if len(given) > MOST_IMAGES:
            raise invalid("messages", f"'messages' must hold at most {MOST_IMAGES} images, not {len(given)}")
        self._refuse_marks(chat)
        text = self._chat.text(chat)
        images = [decode(image, f"image {number} of 'messages'") for number, image in enumerate(given, 1)]
        try:
            with self._lock:
                call: Any = self._processor
                found = call(text=[text], images=images, return_tensors="pt", add_special_tokens=False)
        except Exception as error:  # of the template's count of pictures, or of a shape it cannot work with
            raise invalid("messages", f"the model's processor refuses these images: {_one_line(error)}") from error
        ids: list[int] = found["input_ids"][0].tolist()
        return ids, self._pictures(ids, found, images)

    def _refuse_marks(self, chat: Chat) -> None:
        """A picture's mark in a text would take a picture's place."""
        for message in chat.messages:
            for part in message.parts or ():
                if isinstance(part, str) and (mark := next((mark for mark in self._marks if mark in part), None)):
                    raise invalid("messages", f"'messages' holds a text with '{mark}', this model's mark of an image")

    def _pictures(self, ids: list[int], found: Mapping[str, Any], images: Sequence[PIL.Image.Image]) -> Pictures:
        inputs = {
            name: cast("torch.Tensor", value)
            for name, value in found.items()
            if name in self._accepted and name not in ("input_ids", "attention_mask")
        }
        places = np.flatnonzero(np.array(ids) == self.token_id)
        if not len(places):
            raise unsupported("messages", "'messages' holds an image, which the model's chat template does not show")
        runs = np.full(len(ids), -1, dtype=np.int64)
        runs[places] = np.cumsum(np.diff(places, prepend=places[0]) > 1)
        pictures = Pictures(inputs, places, runs, _keys(ids, runs, images), self.mutual)
        return pictures if self._rope_index is None else self._with_positions(ids, pictures)

    def _with_positions(self, ids: list[int], pictures: Pictures) -> Pictures:
        wanted = inspect.signature(self._rope_index).parameters
        arguments = {name: value for name, value in pictures.inputs.items() if name in wanted}
        positions, shift = self._rope_index(torch.tensor([ids]), **arguments)
        return replace(pictures, positions=positions[:, 0].numpy(), shift=int(shift.item()))


def _keys(ids: Sequence[int], runs: IntArray, images: Sequence[PIL.Image.Image]) -> list[int]:
    """The tokens, with those that stand for a picture replaced by numbers that only the same picture gives.

    A model that writes one run of tokens for each picture lets each stand for itself; else all stand for all.
    """
    digests = [_digest(image) for image in images]
    count = int(runs.max()) + 1
    if count != len(images):
        digests = [blake2b(b"".join(digests), digest_size=32).digest()] * count
    keys = list(ids)
    for place in np.flatnonzero(runs >= 0):
        content = digests[int(runs[place])] + int(place).to_bytes(8, "little")
        keys[place] = int.from_bytes(blake2b(content, digest_size=8).digest(), "little", signed=True)
    return keys


def _digest(image: PIL.Image.Image) -> bytes:
    return blake2b(image.tobytes(), digest_size=32, key=f"{image.width}x{image.height}".encode()).digest()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
