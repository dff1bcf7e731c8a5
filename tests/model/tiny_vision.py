"""Tiny random models that see images, saved with a processor as a person would have them on disk.

Their image processors are those of Pillow, made from parts, so that torchvision is not needed.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import PIL.Image
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mesh.engine.base import Chat, Image, Message
from tests.model import tiny

_TEXT: dict[str, Any] = {**tiny.SIZES, "max_position_embeddings": 1024}
_SIGLIP: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 4,
}
_QWEN_VISION: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": 4, "hidden_size": 32}
_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
_QWEN_SPECIALS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
_QWEN_IDS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
_QWEN_PROCESSOR: dict[str, Any] = {
    "patch_size": 4,
    "merge_size": 2,
    "size": {"shortest_edge": 64, "longest_edge": 1024},
}


@dataclass(frozen=True)
class Recipe:
    """How an architecture is made: its configuration's parts, the tokens it adds, what a template writes for an image,
    and the processor's classes and arguments."""

    name: str
    text: dict[str, Any]
    vision: dict[str, Any]
    specials: dict[str, str]  # configuration's name of the id -> token
    placeholder: str
    image_processor: str
    image_options: dict[str, Any]
    processor: str
    options: dict[str, Any]
    top: dict[str, Any]
    token_names: dict[str, str]  # the tokenizer's own names for some of them


def _qwen(name: str, text: dict[str, Any], vision: dict[str, Any], processor: str = "Qwen2VLProcessor") -> Recipe:
    return Recipe(
        name=name,
        text={**_TEXT, **_MROPE, **text},
        vision={**_QWEN_VISION, **vision},
        specials=dict(zip(_QWEN_IDS, _QWEN_SPECIALS, strict=True)),
        placeholder="<|vision_start|><|image_pad|><|vision_end|>",
        image_processor="Qwen2VLImageProcessorPil",
        image_options=_QWEN_PROCESSOR,
        processor=processor,
        options={},
        top={},
        token_names={},
    )


_IDEFICS3 = Recipe(
    name="Idefics3",
    text={"model_type": "llama", **_TEXT},
    vision={**_SIGLIP, "image_size": 16},
    specials={"image_token_id": "<image>", "": "<fake_token_around_image>", " ": "<end_of_utterance>"},
    placeholder="<image>",
    image_processor="Idefics3ImageProcessorPil",
    image_options={"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}},
    processor="Idefics3Processor",
    options={"image_seq_len": 4},
    top={"scale_factor": 2},
    token_names={},
)
_GEMMA3 = Recipe(
    name="Gemma3",
    text={
        **_TEXT,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 16,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    },
    vision={**_SIGLIP, "image_size": 32, "model_type": "siglip_vision_model", "vision_use_head": False},
    specials={
        "image_token_index": "<image_soft_token>",
        "boi_token_index": "<start_of_image>",
        "eoi_token_index": "<end_of_image>",
    },
    placeholder="<start_of_image>",
    image_processor="Gemma3ImageProcessorPil",
    image_options={"size": {"height": 32, "width": 32}},
    processor="Gemma3Processor",
    options={"image_seq_length": 16},
    top={"mm_tokens_per_image": 16},
    token_names={"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
)
_LLAVA = Recipe(
    name="Llava",
    text={"model_type": "llama", **_TEXT},
    vision={**_SIGLIP, "image_size": 16, "model_type": "clip_vision_model"},
    specials={"image_token_index": "<image>"},
    placeholder="<image>",
    image_processor="CLIPImageProcessorPil",
    image_options={"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}},
    processor="LlavaProcessor",
    options={"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    top={"vision_feature_layer": -1, "vision_feature_select_strategy": "default"},
    token_names={},
)
RECIPES = {
    recipe.name: recipe
    for recipe in (
        _LLAVA,
        _qwen("Qwen2VL", {}, {"embed_dim": 16}),
        _qwen(
            "Qwen2_5_VL",
            {},
            {
                "hidden_size": 16,
                "intermediate_size": 32,
                "out_hidden_size": 32,
                "window_size": 16,
                "fullatt_block_indexes": [1],
            },
            "Qwen2_5_VLProcessor",
        ),
        _qwen(
            "Qwen3VL",
            {"head_dim": 8},
            {
                "hidden_size": 16,
                "intermediate_size": 32,
                "out_hidden_size": 32,
                "num_position_embeddings": 64,
                "deepstack_visual_indexes": [0, 1],
            },
            "Qwen3VLProcessor",
        ),
        _IDEFICS3,
        _GEMMA3,
    )
}


def tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """One token per byte, the model's special tokens, and a template that shows images."""
    made = deepcopy(tiny.make_tokenizer())
    made.add_special_tokens({"additional_special_tokens": list(recipe.specials.values())})
    made.model_max_length = 1024
    made.chat_template = (
        "{% for m in messages %}<s>{{ m.role }}: {% if m.content is string %}{{ m.content }}{% else %}"
        "{% for p in m.content %}{% if p.type == 'image' %}" + recipe.placeholder + "{% else %}{{ p.text }}{% endif %}"
        "{% endfor %}{% endif %}</s>{% endfor %}{% if add_generation_prompt %}<s>assistant: {% endif %}"
    )
    return made


def make_model(recipe: Recipe) -> PreTrainedModel:
    """A random model in evaluation mode."""
    ids = tokenizer(recipe)
    tokens = {key: ids.convert_tokens_to_ids(token) for key, token in recipe.specials.items() if key.strip()}
    config = getattr(transformers, f"{recipe.name}Config")(
        text_config=recipe.text, vision_config=recipe.vision, tie_word_embeddings=False, **tokens, **recipe.top
    )
    torch.manual_seed(int.from_bytes(hashlib.sha256(recipe.name.encode()).digest()[:4], "little"))
    model = getattr(transformers, f"{recipe.name}ForConditionalGeneration")(config)
    tiny.widen(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():  # left at zero, it would make all pictures equal
                parameter.normal_(std=3.0)
    return cast("PreTrainedModel", model.eval())


def save(folder: Path, name: str) -> tuple[str, PreTrainedModel]:
    """Write a model, its tokenizer and its processor's settings to `folder`."""
    recipe = RECIPES[name]
    model = make_model(recipe)
    model.save_pretrained(folder)
    tokenizer(recipe).save_pretrained(folder)
    if recipe.token_names:
        config = folder / "tokenizer_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"extra_special_tokens": recipe.token_names}))
    image_processor = getattr(transformers, recipe.image_processor)(**recipe.image_options)
    image_processor.save_pretrained(folder)
    settings = {"processor_class": recipe.processor, **recipe.options}
    (folder / "processor_config.json").write_text(json.dumps(settings))
    return str(folder), model


def png(width: int, height: int, seed: int = 0, mode: str = "RGB") -> bytes:
    """A file with a picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels.squeeze()).save(file, "PNG")
    return file.getvalue()


def chat(*turns: Sequence[str | bytes]) -> Chat:
    """A conversation whose turns, of user and assistant in turn, are texts and encoded pictures."""
    return Chat(
        tuple(
            Message(
                "assistant" if index % 2 else "user",
                tuple(part if isinstance(part, str) else Image(part, "image/png") for part in turn),
            )
            for index, turn in enumerate(turns)
        )
    )


def generate(name: str, model: PreTrainedModel, conversation: Chat, tokens: int) -> list[int]:
    """What transformers itself answers, greedily."""
    inputs = reference_inputs(RECIPES[name], conversation)
    run = cast("Callable[..., torch.Tensor]", model.generate)
    with torch.no_grad():
        output = run(**inputs, max_new_tokens=tokens, do_sample=False, eos_token_id=None)
    return cast("list[int]", output[0, inputs["input_ids"].shape[1] :].tolist())


def reference_inputs(recipe: Recipe, conversation: Chat) -> dict[str, torch.Tensor]:
    """A model's inputs for a conversation, made without our code."""
    parts = [part for message in conversation.messages for part in message.parts or ()]
    images = [PIL.Image.open(io.BytesIO(part.data)).convert("RGB") for part in parts if isinstance(part, Image)]
    text = ""
    for message in conversation.messages:
        shown = [part if isinstance(part, str) else recipe.placeholder for part in message.parts or ()]
        text += f"<s>{message.role}: {''.join(shown)}</s>"
    text += "<s>assistant: "
    own = tokenizer(recipe)
    for name, token in recipe.token_names.items():
        setattr(own, name, token)
        setattr(own, name + "_id", own.convert_tokens_to_ids(token))
    image_processor = getattr(transformers, recipe.image_processor)(**recipe.image_options)
    if not images:
        ids = torch.tensor([own.encode(text, add_special_tokens=False)])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if recipe.image_options is _QWEN_PROCESSOR:
        return _qwen_inputs(own, image_processor, text, images)
    processor = getattr(transformers, recipe.processor)(
        image_processor=image_processor, tokenizer=own, **recipe.options
    )
    return dict(processor(text=[text], images=images, return_tensors="pt", add_special_tokens=False))


def _qwen_inputs(own: Any, image_processor: Any, text: str, images: list[PIL.Image.Image]) -> dict[str, torch.Tensor]:
    """By hand, since the whole processor has a part for videos, which needs torchvision."""
    inputs = dict(image_processor(images=images, return_tensors="pt"))
    pad = _QWEN_SPECIALS[0]
    pieces = text.split(pad)
    text = pieces[0]
    for grid, piece in zip(inputs["image_grid_thw"], pieces[1:], strict=True):
        text += pad * (int(grid.prod()) // 4) + piece
    ids = torch.tensor([own.encode(text, add_special_tokens=False)])
    types = (ids == own.convert_tokens_to_ids(pad)).int()
    return {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": types}
