"""Classes of texts and pairs against a plain forward of transformers, for each input alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from mesh.engine.base import Classification, Text, TextPair, Tokens
from mesh.errors import ErrorKind, MeshError
from mesh.v1 import inference_pb2 as pb
from tests.component.worker_rig import serving
from tests.model.driver import Driver, prompt_of
from tests.model.tiny_encoders import make_encoder, make_tokenizer, save

HEAD = "ForSequenceClassification"
TEXTS = ["hi", "a longer text about a fox, and about the dogs that it knows", "the same length as one other", "x" * 90]
PAIRS = [("what?", "a fox"), ("where does the sea end?", "it does not"), ("q", "d" * 60)]
LABELS = {0: "calm", 1: "hate", 2: "violence"}


def logits(model: PreTrainedModel, ids: Sequence[int], segments: Sequence[int] | None = None) -> torch.Tensor:
    """The logits [classes] of one input, by transformers alone."""
    tokens = torch.tensor([list(ids)])
    more: dict[str, Any] = {} if segments is None else {"token_type_ids": torch.tensor([list(segments)])}
    with torch.no_grad():
        found: Any = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), **more)
    return found.logits.squeeze(0)


def close(found: Sequence[float], expected: torch.Tensor) -> bool:
    return len(found) == len(expected) and bool((torch.tensor(found) - expected).abs().max() < 1e-5)


async def classify(driver: Driver, inputs: Sequence[str | tuple[str, str]], **options: Any) -> Classification:
    given = [Text(each) if isinstance(each, str) else TextPair(*each) for each in inputs]
    return await driver.engine.classify("", given, **{"raw": False, "truncate": False, **options})


@pytest.mark.parametrize("name", ["Bert", "Roberta", "ModernBert"])
async def test_each_text_gets_its_probabilities_whatever_is_beside_it(name: str, tmp_path: Path) -> None:
    model = make_encoder(name, head=HEAD, num_labels=3, id2label=LABELS)
    async with Driver(save(tmp_path, model)) as driver:
        (info,) = driver.engine.models
        assert info.capabilities == {"classify"}
        both = await asyncio.gather(classify(driver, TEXTS), classify(driver, TEXTS[::-1], raw=True))
        assert driver.stat("embed_batches") < 2 * len(TEXTS)
    found, raw = both
    assert (found.labels, found.exclusive, raw.exclusive) == (("calm", "hate", "violence"), True, False)
    assert found.prompt_tokens == sum(len(make_tokenizer().encode(text)) for text in TEXTS)
    for text, scores, own in zip(TEXTS, found.scores, raw.scores[::-1], strict=True):
        expected = logits(model, make_tokenizer().encode(text))
        assert close(own, expected)
        assert close(scores, expected.softmax(dim=0))


@pytest.mark.parametrize(
    ("settings", "activation"),
    [
        ({"num_labels": 1}, torch.sigmoid),
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, torch.sigmoid),
        ({"num_labels": 1, "problem_type": "regression"}, torch.clone),
        (
            {"num_labels": 1, "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
            torch.clone,
        ),
    ],
    ids=["one class", "several at once", "a number", "as sentence-transformers says"],
)
async def test_the_configuration_says_what_is_made_of_logits(settings: Any, activation: Any, tmp_path: Path) -> None:
    model = make_encoder("Bert", head=HEAD, **settings)
    async with Driver(save(tmp_path, model)) as driver:
        found = await classify(driver, TEXTS)
    assert not found.exclusive
    for text, scores in zip(TEXTS, found.scores, strict=True):
        assert close(scores, activation(logits(model, make_tokenizer().encode(text))))


async def test_pairs_are_told_apart_by_segments(tmp_path: Path) -> None:
    """As a cross-encoder of Bert's kin has them."""
    model = make_encoder("Bert", head=HEAD, num_labels=1)
    tokenizer = make_tokenizer()
    folder = save(tmp_path, model)
    file = tmp_path / "tokenizer_config.json"
    named = ["input_ids", "token_type_ids", "attention_mask"]
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_input_names": named}))
    async with Driver(folder) as driver:
        found = await classify(driver, [*PAIRS, "alone"])
    for (first, second), scores in zip(PAIRS, found.scores, strict=False):
        one, other = (tokenizer.encode(text, add_special_tokens=False) for text in (first, second))
        ids = [0, *one, 2, *other, 2]
        segments = tokenizer(first, second, return_token_type_ids=True)["token_type_ids"]
        assert close(scores, torch.sigmoid(logits(model, ids, segments)))


@pytest.mark.parametrize(("first", "second"), [("q" * 20, "d" * 200), ("q" * 200, "d" * 20), ("q" * 150, "d" * 150)])
async def test_a_pair_that_is_too_long_loses_the_end_of_its_longer_text(
    first: str, second: str, tmp_path: Path
) -> None:
    model = make_encoder("Bert", head=HEAD, num_labels=1)
    tokenizer = make_tokenizer()
    async with Driver(save(tmp_path, model)) as driver:
        with pytest.raises(MeshError, match="maximum context length is 130 tokens") as caught:
            await classify(driver, [(first, second)])
        assert caught.value.kind is ErrorKind.CONTEXT_LENGTH_EXCEEDED
        found = await classify(driver, [(first, second)], truncate=True)
    assert found.prompt_tokens == 130
    cut = tokenizer(first, second, truncation="longest_first", max_length=130)["input_ids"]
    assert close(found.scores[0], torch.sigmoid(logits(model, cut)))


@pytest.mark.parametrize("pad", [1, None], ids=["with a padding token", "without one"])
async def test_decoders_with_a_head_for_classes(pad: int | None, tmp_path: Path) -> None:
    sizes = {"num_key_value_heads": 2, "head_dim": 8}
    model = make_encoder("Llama", head=HEAD, num_labels=2, pad_token_id=pad, **sizes)
    async with Driver(save(tmp_path, model)) as driver:
        found = await classify(driver, TEXTS)
    for text, scores in zip(TEXTS, found.scores, strict=True):
        assert close(scores, logits(model, make_tokenizer().encode(text)).softmax(dim=0)), text


async def test_what_a_classifier_cannot_do_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, make_encoder("Bert", head=HEAD, num_labels=2))
    async with Driver(path) as driver:
        with pytest.raises(MeshError, match="does not generate"):
            await driver.submit(prompt_of(3), tokens=2)
        with pytest.raises(MeshError, match="does not embed"):
            await driver.engine.embed("", [Tokens((5,))], dimensions=None, normalize=None, truncate=False)
        with pytest.raises(MeshError, match="Unicode"):
            await classify(driver, [("a", "\ud800")])


async def test_the_worker_serves_it(tmp_path: Path) -> None:
    model = make_encoder("Bert", head=HEAD, num_labels=3, id2label=LABELS)
    async with serving(Driver(save(tmp_path, model)).engine) as rig:
        inputs = [pb.ClassifyInput(text="hi"), pb.ClassifyInput(pair=pb.TextPair(first="a", second="b"))]
        found = await rig.inference.Classify(pb.ClassifyRequest(inputs=inputs, raw=True))
        described = await rig.inference.DescribeModel(pb.DescribeModelRequest())
    assert list(found.labels) == ["calm", "hate", "violence"]
    assert close(found.results[0].scores, logits(model, make_tokenizer().encode("hi")))
    assert len(found.results) == 2
    assert list(described.capabilities) == [pb.CAPABILITY_CLASSIFY]
