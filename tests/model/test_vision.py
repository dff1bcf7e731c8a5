"""Models that see: every architecture answers as transformers' generate does, whatever shares the steps."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest
from transformers import PreTrainedModel

from mesh.engine.base import Chat, Image, Message, Progress
from mesh.errors import ErrorKind, MeshError
from tests.model import tiny, tiny_vision
from tests.model.driver import Driver, prompt_of
from tests.model.tiny_vision import chat, generate, png

Saved = tuple[str, PreTrainedModel]
Seeing = Callable[[str], Saved]

TALL, WIDE, OTHER = png(20, 40, 1), png(32, 16, 2), png(32, 16, 3)
TURNS = chat([TALL, "What?"], ["A cat."], ["And", WIDE, TALL, "this?"])
SAMPLED = {"temperature": 1.0, "seed": 77}


@pytest.fixture(scope="session")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Seeing:
    """Path and model of an architecture that sees."""
    known: dict[str, Saved] = {}

    def get(name: str) -> Saved:
        if name not in known:
            known[name] = tiny_vision.save(tmp_path_factory.mktemp(name), name)
        return known[name]

    return get


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "per_sequence"])
@pytest.mark.parametrize("name", tiny_vision.RECIPES)
async def test_as_generate(seeing: Seeing, name: str, packed: bool) -> None:
    """Several pictures and turns, and rows of text, in the same steps; prompts in small pieces."""
    path, model = seeing(name)
    conversations = [TURNS, chat(["Hello!"]), chat([WIDE, "What?"]), chat([OTHER, "What?"]), chat(["Hello!"])]
    async with Driver(path, packed=packed, step_tokens=24) as driver:
        info = driver.engine.models[0]
        assert info.execution == ("packed" if packed else "per_sequence")
        assert "vision" in info.capabilities
        keys: list[int] = []
        for conversation in conversations:
            keys.append(await driver.submit(conversation, tokens=12))
            await driver.until_tokens(keys[0], len(keys))
        answers = [await driver.answer(key) for key in keys]
        for conversation, answer in zip(conversations, answers, strict=True):
            assert answer.ids == generate(name, model, conversation, 12)
            inputs = tiny_vision.reference_inputs(tiny_vision.RECIPES[name], conversation)
            assert answer.started is not None
            assert answer.started.prompt_tokens == inputs["input_ids"].shape[1]
        assert answers[2].ids != answers[3].ids, "the pictures make no difference: the test shows nothing"
        assert driver.stat("kv_pages_used") == 0


@pytest.mark.parametrize("name", ["Qwen2VL", "Idefics3", "Gemma3"])
async def test_prefix_cache_tells_pictures_apart(seeing: Seeing, name: str) -> None:
    path, model = seeing(name)
    first, other = chat([WIDE, "What is it?"]), chat([OTHER, "What is it?"])
    longer = chat([WIDE, "What is it?"], ["A cat."], ["Sure? Look again."])
    async with Driver(path, page_size=4) as driver:
        for conversation in (first, other, first, longer):
            answer = await driver.ask(conversation, tokens=8)
            assert answer.ids == generate(name, model, conversation, 8)
        cached = [driver.answers[key].finished for key in (1, 2, 3, 4)]
        tokens = [finished.cached_tokens if finished else -1 for finished in cached]
        until_picture = len("<s>user: ") // 4 * 4
        assert tokens[0] == 0
        assert tokens[1] <= until_picture + 12
        assert tokens[2] > tokens[1] + 8
        assert tokens[3] > tokens[1] + 8


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "per_sequence"])
@pytest.mark.parametrize("name", ["Qwen3VL", "Gemma3"])
async def test_resumed_at_every_token(seeing: Seeing, name: str, packed: bool) -> None:
    async with Driver(seeing(name)[0], packed=packed, max_rows=16) as driver:
        whole = (await driver.ask(TURNS, tokens=6, sampling=SAMPLED)).ids
        for done in range(6):
            answer = await driver.ask(TURNS, tokens=6, sampling=SAMPLED, resume={0: whole[:done]})
            assert answer.ids == whole[done:], done


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "per_sequence"])
@pytest.mark.parametrize("name", ["Qwen2_5_VL", "Gemma3"])
async def test_preempted(seeing: Seeing, name: str, packed: bool) -> None:
    path, model = seeing(name)
    conversations = [chat([picture, "What?"]) for picture in (TALL, WIDE, OTHER)]
    async with Driver(path, packed=packed, kv_tokens=144, prefix_cache=False, step_tokens=24) as driver:
        keys = [await driver.submit(conversation, tokens=40, credit=1) for conversation in conversations]
        for key in keys:  # so that the first is not over before the last has begun
            await driver.until_tokens(key, 1)
        for key in keys:
            driver.engine.grant(key, 40)
        for conversation, key in zip(conversations, keys, strict=True):
            assert (await driver.answer(key)).ids == generate(name, model, conversation, 40)
        assert driver.stat("preemptions") > 0


async def test_choices_share_the_prompt(seeing: Seeing) -> None:
    """Its last page too, which here holds all that tells the two prompts apart."""
    pictures = [chat([picture, "x"]) for picture in (WIDE, OTHER)]
    async with Driver(seeing("Qwen2VL")[0], page_size=64) as driver:
        keys = [await driver.submit(each, tokens=8, sampling={**SAMPLED, "n": 3}) for each in pictures]
        several = [(await driver.answer(key)).tokens for key in keys]
    async with Driver(seeing("Qwen2VL")[0], prefix_cache=False) as driver:
        for tokens, conversation in zip(several, pictures, strict=True):
            assert tokens[0] != tokens[1]
            for choice in range(3):
                resume = {other: Progress((), finished=True) for other in range(3) if other != choice}
                alone = await driver.ask(conversation, tokens=8, sampling={**SAMPLED, "n": 3}, resume=resume)
                assert alone.tokens[choice] == tokens[choice]


async def test_tokenize_counts_pictures(seeing: Seeing) -> None:
    async with Driver(seeing("Llava")[0]) as driver:
        answer = await driver.ask(TURNS, tokens=1)
        assert answer.started is not None
        assert len(await driver.engine.tokenize("", TURNS)) == answer.started.prompt_tokens


def _file(format: str, size: tuple[int, int] = (8, 8)) -> bytes:
    """A picture of two colours: one with many pixels is made at once."""
    file = io.BytesIO()
    PIL.Image.new("1", size).save(file, format)
    return file.getvalue()


HOSTILE = {
    "no file at all": (b"GARBAGE", "image/png", "not a whole"),
    "cut off": (TALL[: len(TALL) // 2], "image/png", "not a whole"),
    "only a header": (TALL[:40], "image/png", "not a whole"),
    "too many pixels": (_file("PNG", (8000, 5001)), "image/png", "at most 40000000 pixels, not 40008000"),
    "a bomb": (_file("PNG", (16000, 16000)), "image/png", "not a whole"),
    "a vector": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", r"media type 'image/svg\+xml'"),
    "a vector in disguise": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/png", "not a whole"),
    "another format": (_file("TIFF"), "image/png", "not a whole"),
    "a needle": (_file("PNG", (4000, 4)), "image/png", "refuses these images"),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_hostile_pictures_are_refused(seeing: Seeing, what: str) -> None:
    data, media_type, message = HOSTILE[what]
    async with Driver(seeing("Qwen2VL")[0]) as driver:
        with pytest.raises(MeshError, match=message) as refused:
            await driver.submit(Chat((Message("user", (Image(data, media_type), "What?")),)))
        assert refused.value.kind is ErrorKind.INVALID_REQUEST
        assert refused.value.param == "messages"


async def test_texts_must_not_hold_the_mark_of_a_picture(seeing: Seeing) -> None:
    async with Driver(seeing("Qwen2VL")[0]) as driver:
        with pytest.raises(MeshError, match=r"'<\|image_pad\|>', this model's mark") as refused:
            await driver.submit(chat([TALL, "<|image_pad|>"]))
        assert refused.value.kind is ErrorKind.INVALID_REQUEST


async def test_more_tokens_than_the_context_holds(seeing: Seeing) -> None:
    async with Driver(seeing("Idefics3")[0]) as driver:
        with pytest.raises(MeshError) as refused:
            await driver.submit(chat([TALL] * 20))
        assert refused.value.kind is ErrorKind.CONTEXT_LENGTH_EXCEEDED


async def test_a_model_without_sight_says_so(saved: Callable[[str], Saved]) -> None:
    path, model = saved("Llama")
    async with Driver(path) as driver:
        assert "vision" not in driver.engine.models[0].capabilities
        with pytest.raises(MeshError, match="cannot see") as refused:
            await driver.submit(chat([TALL, "What?"]))
        assert refused.value.kind is ErrorKind.UNSUPPORTED
        assert (await driver.ask(prompt_of(9))).ids == tiny.generate(model, prompt_of(9), 16)


async def test_a_model_without_its_processor_serves_text(
    seeing: Seeing, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path, model = tiny_vision.save(tmp_path_factory.mktemp("blind"), "Llava")
    for name in ("processor_config.json", "preprocessor_config.json"):
        (Path(path) / name).unlink()
    async with Driver(path) as driver:
        assert "vision" not in driver.engine.models[0].capabilities
        assert (await driver.ask(chat(["Hello!"]))).ids == generate("Llava", model, chat(["Hello!"]), 16)
