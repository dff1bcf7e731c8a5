"""Vectors against a plain forward of transformers and pooling spelled out, for each text alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from mesh.engine.base import Embeddings, Text, Tokens
from mesh.errors import MeshError
from tests.model import tiny, tiny_encoders
from tests.model.driver import Driver, prompt_of
from tests.model.test_engine_faults import out_of_memory_above
from tests.model.tiny_encoders import SIZE, add_modules, make_encoder, make_tokenizer, save

TEXTS = [
    "hi",
    "a longer text about a fox, and about the dogs that it knows",
    "the same length as one other",
    "so long as one other text is",
    "",
    "x" * 90,
]
Saved = tuple[str, PreTrainedModel]


def hidden(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    """The last layer's states [tokens, size] of one text, by transformers alone."""
    tokens = torch.tensor([list(ids)])
    body: Any = model.base_model
    with torch.no_grad():
        states: torch.Tensor = body(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
    return states.squeeze(0)


def unit(vector: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vector, dim=0)


def close(found: Sequence[float], expected: torch.Tensor) -> bool:
    return len(found) == len(expected) and bool((torch.tensor(found) - expected).abs().max() < 1e-5)


async def embed(driver: Driver, inputs: Sequence[str | Sequence[int]], **options: Any) -> Embeddings:
    given = [Text(each) if isinstance(each, str) else Tokens(tuple(each)) for each in inputs]
    defaults: dict[str, Any] = {"dimensions": None, "normalize": None, "truncate": False}
    return await driver.engine.embed("", given, **{**defaults, **options})


def ids_of(text: str) -> list[int]:
    return make_tokenizer().encode(text)


@pytest.mark.parametrize("name", tiny_encoders.ENCODERS)
async def test_encoders_give_the_mean_of_each_text_whatever_is_beside_it(name: str, tmp_path: Path) -> None:
    model = make_encoder(name)
    async with Driver(save(tmp_path, model)) as driver:
        assert driver.engine.models[0].capabilities == {"embed"}
        assert driver.engine.models[0].context_length == (128 if "Roberta" in name or name == "MPNet" else 130)
        # Two clients, whose texts share batches.
        both = await asyncio.gather(embed(driver, TEXTS), embed(driver, [ids_of(text) for text in reversed(TEXTS)]))
        assert driver.stat("embed_inputs") == 2 * len(TEXTS)
        assert driver.stat("embed_batches") < 2 * len(TEXTS)
    for found, texts in zip(both, (TEXTS, TEXTS[::-1]), strict=True):
        assert found.prompt_tokens == sum(len(ids_of(text)) for text in texts)
        for vector, text in zip(found.vectors, texts, strict=True):
            assert close(vector, unit(hidden(model, ids_of(text)).mean(dim=0))), text


@pytest.mark.parametrize("name", ["Llama", "Qwen3", "Gemma3", "GPT2", "Mamba", "Falcon"])
async def test_decoders_give_the_last_token_and_generate_beside_it(name: str, saved: Callable[[str], Saved]) -> None:
    path, model = saved(name)
    prompts = [prompt_of(length, start=length) for length in (3, 5, 17, 40, 41)]
    async with Driver(path) as driver:
        key = await driver.submit(prompt_of(9), tokens=24)
        found = await embed(driver, prompts)
        answer = await driver.answer(key)
    assert answer.ids == tiny.generate(model, prompt_of(9), 24)
    for vector, ids in zip(found.vectors, prompts, strict=True):
        assert close(vector, unit(hidden(model, ids)[-1]))


async def test_a_decoder_with_mean_pooling_by_option(llama: Saved) -> None:
    path, model = llama
    async with Driver(path, pooling="mean") as driver:
        found = await embed(driver, [prompt_of(9), prompt_of(4)])
    assert close(found.vectors[1], unit(hidden(model, prompt_of(4)).mean(dim=0)))


async def test_an_encoder_decoder_does_not_embed(saved: Callable[[str], Saved]) -> None:
    async with Driver(saved("T5")[0]) as driver:
        assert "embed" not in driver.engine.models[0].capabilities
        with pytest.raises(MeshError, match="does not embed"):
            await embed(driver, ["hi"])


POOLINGS: dict[str, tuple[dict[str, Any], Callable[[torch.Tensor], torch.Tensor]]] = {
    "cls": ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, lambda states: states[0]),
    "mean": ({"pooling_mode_mean_tokens": True}, lambda states: states.mean(dim=0)),
    "max": ({"pooling_mode_max_tokens": True}, lambda states: states.amax(dim=0)),
    "last": ({"pooling_mode_lasttoken": True}, lambda states: states[-1]),
    "by name": ({"pooling_mode": "lasttoken"}, lambda states: states[-1]),
    "square root": (
        {"pooling_mode_mean_sqrt_len_tokens": True},
        lambda states: states.sum(dim=0) / len(states) ** 0.5,
    ),
    "weighted": (
        {"pooling_mode_weightedmean_tokens": True},
        lambda states: (
            sum(((n + 1) * state for n, state in enumerate(states)), torch.zeros(SIZE)) / sum(range(1, len(states) + 1))
        ),
    ),
}


@pytest.mark.parametrize("name", POOLINGS)
async def test_poolings_of_sentence_transformers(name: str, tmp_path: Path) -> None:
    pooling, expected = POOLINGS[name]
    model = make_encoder("Bert")
    path = save(tmp_path, model)
    add_modules(tmp_path, pooling, normalize=False)
    async with Driver(path) as driver:
        found = await embed(driver, TEXTS)
        of_length_one = await embed(driver, TEXTS[:1], normalize=True)
    for vector, text in zip(found.vectors, TEXTS, strict=True):
        assert close(vector, expected(hidden(model, ids_of(text)))), text
    assert close(of_length_one.vectors[0], unit(expected(hidden(model, ids_of(TEXTS[0])))))


async def test_dense_layers_follow_the_pooling(tmp_path: Path) -> None:
    torch.manual_seed(3)
    wide, narrow = (torch.randn(48, SIZE), torch.randn(48)), (torch.randn(8, 48), torch.randn(8))
    model = make_encoder("Roberta")
    path = save(tmp_path, model)
    layers = [(*wide, "Tanh"), (*narrow, "Identity")]
    add_modules(tmp_path, {"pooling_mode_mean_tokens": True}, dense=layers)
    async with Driver(path) as driver:
        found = await embed(driver, TEXTS)
    for vector, text in zip(found.vectors, TEXTS, strict=True):
        mean = hidden(model, ids_of(text)).mean(dim=0)
        expected = narrow[0] @ torch.tanh(wide[0] @ mean + wide[1]) + narrow[1]
        assert close(vector, unit(expected))


async def test_dimensions_cut_and_then_normalize(tmp_path: Path) -> None:
    model = make_encoder("Bert")
    async with Driver(save(tmp_path, model)) as driver:
        short = await embed(driver, TEXTS[:2], dimensions=5)
        raw = await embed(driver, TEXTS[:1], dimensions=5, normalize=False)
        for wrong in (0, SIZE + 1):
            with pytest.raises(MeshError, match=f"'dimensions' must be between 1 and {SIZE}, not {wrong}"):
                await embed(driver, TEXTS, dimensions=wrong)
    mean = hidden(model, ids_of(TEXTS[0])).mean(dim=0)
    assert close(short.vectors[0], unit(mean[:5]))
    assert close(raw.vectors[0], mean[:5])


async def test_long_inputs_are_refused_or_cut_between_their_special_tokens(tmp_path: Path) -> None:
    model = make_encoder("Bert")
    path = save(tmp_path, model)
    add_modules(tmp_path, {"pooling_mode_mean_tokens": True}, limits={"max_seq_length": 20, "do_lower_case": True})
    text = "A Text Of More Than Twenty Tokens"
    async with Driver(path) as driver:
        with pytest.raises(MeshError, match="maximum context length is 20 tokens") as caught:
            await embed(driver, ["short", text])
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "inputs")
        cut = await embed(driver, [text, ids_of(text)], truncate=True)
        lower = await embed(driver, ["SHORT"])
    assert cut.prompt_tokens == 40
    kept = ids_of(text.lower()[:18])
    assert len(kept) == 20
    assert close(cut.vectors[0], unit(hidden(model, kept).mean(dim=0)))
    assert close(cut.vectors[1], unit(hidden(model, ids_of(text)[:20]).mean(dim=0)))
    assert close(lower.vectors[0], unit(hidden(model, ids_of("short")).mean(dim=0)))


async def test_a_masked_language_model_embeds_without_its_head(tmp_path: Path) -> None:
    model = make_encoder("Bert", head="ForMaskedLM")
    async with Driver(save(tmp_path, model)) as driver:
        found = await embed(driver, TEXTS[:1])
        with pytest.raises(MeshError, match="does not generate"):
            await driver.submit(prompt_of(4))
    assert close(found.vectors[0], unit(hidden(model, ids_of(TEXTS[0])).mean(dim=0)))


async def test_the_body_of_a_decoder_embeds_by_its_last_token(llama: Saved, tmp_path: Path) -> None:
    body: Any = llama[1].base_model
    body.save_pretrained(tmp_path)
    tiny.make_tokenizer().save_pretrained(tmp_path)
    async with Driver(str(tmp_path)) as driver:
        assert driver.engine.models[0].capabilities == {"embed"}
        found = await embed(driver, [prompt_of(9), prompt_of(4)])
    assert close(found.vectors[0], unit(hidden(llama[1], prompt_of(9))[-1]))


async def test_what_vectors_depend_on_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    path = save(tmp_path, make_encoder("Bert"))
    fingerprints: set[str] = set()
    for pooling in (None, "cls", "mean"):
        async with Driver(path, pooling=pooling) as driver:
            fingerprints.add(driver.engine.models[0].fingerprint)
    assert len(fingerprints) == 2


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([[1, 2, tiny_encoders.VOCAB]], f"token id {tiny_encoders.VOCAB}: this model knows 0 to"),
        ([[1, 2], []], r"'inputs\[1\]' must have at least 1 token"),
        (["ok", "a lone surrogate \ud800"], "not valid Unicode"),
    ],
)
async def test_bad_inputs(inputs: list[str | list[int]], words: str, tmp_path: Path) -> None:
    async with Driver(save(tmp_path, make_encoder("Bert"))) as driver:
        with pytest.raises(MeshError, match=words):
            await embed(driver, inputs)


async def test_more_inputs_than_may_wait_are_refused(tmp_path: Path) -> None:
    async with Driver(save(tmp_path, make_encoder("Bert")), max_waiting=4, max_rows=2) as driver:
        many = asyncio.create_task(embed(driver, TEXTS))  # alone it may be as long as it likes
        await asyncio.sleep(0)
        with pytest.raises(MeshError) as caught:
            await embed(driver, TEXTS)
        assert caught.value.code == "overloaded"
        assert driver.engine.load().running + driver.engine.load().waiting == len(TEXTS)
        assert len((await many).vectors) == len(TEXTS)


async def test_inputs_of_a_client_that_has_gone_are_dropped(tmp_path: Path) -> None:
    async with Driver(save(tmp_path, make_encoder("Bert")), max_rows=1) as driver:
        gone = asyncio.create_task(embed(driver, TEXTS))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert driver.engine.load().waiting == 0
        await embed(driver, TEXTS[:2])
        assert driver.stat("embed_inputs") == 3


async def test_an_input_whose_vector_is_no_number_fails_alone(tmp_path: Path) -> None:
    model = make_encoder("Bert")
    with torch.no_grad():
        embeddings: Any = model.get_input_embeddings()
        embeddings.weight[ids_of("!")[1]] = float("nan")
    async with Driver(save(tmp_path, model)) as driver:
        bad, good = await asyncio.gather(
            embed(driver, ["bad!"]), embed(driver, ["good", "also"]), return_exceptions=True
        )
    assert isinstance(bad, MeshError)
    assert bad.code == "engine_failed"
    assert isinstance(good, Embeddings)
    assert close(good.vectors[0], unit(hidden(model, ids_of("good")).mean(dim=0)))


async def test_out_of_memory_sheds_what_is_too_long_and_nothing_else(tmp_path: Path) -> None:
    model = make_encoder("Bert")
    async with Driver(save(tmp_path, model)) as driver:
        with out_of_memory_above(60, torch.OutOfMemoryError("CUDA out of memory")):
            long, short = await asyncio.gather(
                embed(driver, ["x" * 90]), embed(driver, ["y" * 50, "z" * 51]), return_exceptions=True
            )
    assert isinstance(long, MeshError)
    assert long.code == "overloaded"
    assert isinstance(short, Embeddings)
    assert close(short.vectors[1], unit(hidden(model, ids_of("z" * 51)).mean(dim=0)))


async def test_a_decoder_with_modules_of_another_kind_generates_and_does_not_embed(tmp_path: Path) -> None:
    path, model = tiny.save(tmp_path, "Llama")
    (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.WordWeights", "path": "1"}]')
    async with Driver(path) as driver:
        assert "embed" not in driver.engine.models[0].capabilities
        assert (await driver.ask(prompt_of(5), tokens=4)).ids == tiny.generate(model, prompt_of(5), 4)
    with pytest.raises(MeshError, match=r"'pooling' cannot be used.*'sentence_transformers.models.WordWeights'"):
        async with Driver(path, pooling="mean"):
            pass


@pytest.mark.parametrize(
    ("pooling", "words"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "the pooling cls, mean, which is not"),
        ({"pooling_mode": "middle"}, "the pooling middle, which is not"),
    ],
)
async def test_poolings_that_are_not_known_are_refused(pooling: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = save(tmp_path, make_encoder("Bert"))
    add_modules(tmp_path, pooling)
    with pytest.raises(MeshError, match=words):
        async with Driver(path):
            pass
    async with Driver(path, pooling="cls") as driver:
        assert len((await embed(driver, ["hi"])).vectors) == 1
