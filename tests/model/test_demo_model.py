"""The demonstration model as shipped, and the recipe that makes it."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from mesh.demo import MODELS, model_path
from training.demo.conversation import Conversation, Exchange
from training.demo.copying import plant
from training.demo.corpus import WRITERS, conversations, examination
from training.demo.evaluate import Question, ask, questions
from training.demo.model import SIZES, Schedule, new_model, own_past, train
from training.demo.packing import Rows, pack
from training.demo.tokenizer import CHAT_TEMPLATE, PAD_ID, encode
from training.demo.writing import Order, key, keys_in

SIZE_LIMIT = 16_000_000


@cache
def load_tokenizer() -> Any:
    return cast("Any", AutoTokenizer.from_pretrained(model_path()))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer()


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(model_path(), dtype=torch.float32).eval()


def answer(model: Any, tokenizer: Any, *turns: str, temperature: float = 0.0) -> str:
    """What the model says to the last of the turns, which begin with the user's."""
    roles = ("user", "assistant")
    messages = [{"role": roles[place % 2], "content": text} for place, text in enumerate(turns)]
    (given,) = ask(model, tokenizer, [Question("test", messages, bool)], temperature)
    assert given.ended, given.text
    return given.text


@pytest.mark.parametrize("name", MODELS)
def test_shipped_files_are_small_and_bfloat16(name: str) -> None:
    files = {path.name: path.stat().st_size for path in model_path(name).iterdir()}
    assert sum(files.values()) <= SIZE_LIMIT
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "recipe.json",
        "MODEL_CARD.md",
    } <= files.keys()
    weights = AutoModelForCausalLM.from_pretrained(model_path(name), dtype="auto").state_dict()
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


def test_shipped_template_is_that_of_the_recipe(tokenizer: Any) -> None:
    assert tokenizer.chat_template == CHAT_TEMPLATE


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("Hi!", "Hello!"),
        ("What is 6 times 7?", "6 * 7 = 42."),
        ("what's eight plus five", "8 + 5 = 13."),
        ("20 - 6", "20 - 6 = 14."),
        ("Which port does the gateway use?", "8000"),
        ("How do I serve my own model?", "--model-path DIR"),
        ("who are you", "demonstration"),
    ],
)
def test_model_answers_its_kinds_of_question(model: Any, tokenizer: Any, user: str, said: str) -> None:
    assert said in answer(model, tokenizer, user)


def test_model_writes_json_that_parses(model: Any, tokenizer: Any) -> None:
    """With values of its own."""
    assert json.loads(answer(model, tokenizer, "Give me a person as JSON")).keys() >= {"name", "age"}


def test_model_writes_json_with_given_values(model: Any, tokenizer: Any) -> None:
    said = answer(model, tokenizer, "Give me a JSON object with name Emma and age 29")
    assert '{"name": "Emma", "age": 29}' in said


def test_model_remembers_earlier_turns(model: Any, tokenizer: Any) -> None:
    turns = ("My name is Clara.", "Nice to meet you, Clara! How can I help you?", "What is my name?")
    assert "Clara" in answer(model, tokenizer, *turns)


def test_model_tells_stories_that_end(model: Any, tokenizer: Any) -> None:
    story = answer(model, tokenizer, "Tell me a story about a fox.")
    assert "fox" in story
    assert len(story.split()) >= 60
    assert story.endswith(".")


def test_model_passes_a_small_examination(model: Any, tokenizer: Any) -> None:
    """Wordings and operands of every kind that are kept apart from training, sampled."""
    asked = questions("test", 5)
    torch.manual_seed(0)
    answers = ask(model, tokenizer, asked, 0.7)
    wrong = [(given.question.messages[-1]["content"], given.text) for given in answers if not given.right]
    assert len(wrong) <= len(answers) * 0.25, wrong


@given(st.text())
def test_tokenizer_returns_every_text_unharmed(text: str) -> None:
    tokenizer = load_tokenizer()
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text


def test_encoding_of_the_recipe_is_that_of_the_template(tokenizer: Any) -> None:
    for conversation in conversations("template", 40):
        rendered = tokenizer.apply_chat_template(
            conversation.messages(), return_dict=True, return_assistant_tokens_mask=True
        )
        ids, weights = encode(tokenizer, conversation)
        assert ids == rendered["input_ids"]
        assert [weight > 0 for weight in weights] == [bool(mark) for mark in rendered["assistant_masks"]]


def test_template_takes_parts_and_refuses_unknown_roles(tokenizer: Any) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    rendered = tokenizer.apply_chat_template([{"role": "developer", "content": parts}], tokenize=False)
    assert rendered == "<|begin|><|system|>ab<|end|>"
    with pytest.raises(Exception, match="roles system, user and assistant, not tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_conversations_are_reproducible_and_right() -> None:
    first, again = list(conversations("seed", 200)), list(conversations("seed", 200))
    assert [one.messages() for one in first] == [one.messages() for one in again]
    assert [one.messages() for one in first] != [one.messages() for one in conversations("other", 200)]
    for exchange in (exchange for one in first for exchange in one.exchanges):
        assert exchange.check(exchange.answer), exchange


@pytest.mark.parametrize("kind", ["arithmetic", "project"])
def test_examination_asks_what_training_never_says(kind: str) -> None:
    writer = WRITERS[kind][0]
    asked = {one.exchanges[0].user.lower() for one in examination("apart", writer, 200)}
    trained = {exchange.user.lower() for one in conversations("apart", 4000) for exchange in one.exchanges}
    assert len(asked) > 50
    assert not asked & trained


def test_questions_that_training_has_are_found() -> None:
    """By the wording and the one before it, without case and punctuation, whoever of the processes wrote them."""
    order = Order("found", 300)
    one = next(one for one in conversations(order.seed, order.count) if len(one.exchanges) > 2)
    users = [exchange.user for exchange in one.exchanges]
    there = {key([users[0].upper() + "!"]), key(users[:2])}
    assert keys_in(order, frozenset({*there, key(["never said"])}), jobs=1) == there


def test_all_conversations_are_written_once() -> None:
    assert [number for share in Order("x", 30_001).shares() for number in share] == list(range(30_001))


def test_packing_keeps_conversations_whole_and_apart() -> None:
    encoded = [([place] * length, [0.5] * length) for place, length in enumerate((5, 3, 9, 2, 4), 1)]
    rows = pack(encoded, length=8, pad=0)
    assert rows.ids.tolist() == [[1] * 5 + [2] * 3, [3] * 8, [4] * 2 + [5] * 4 + [0] * 2]
    assert rows.positions[2].tolist() == [0, 1, 0, 1, 2, 3, 0, 1]
    assert rows.weights[2].tolist() == [0.5] * 6 + [0.0] * 2


def test_packed_conversations_do_not_see_each_other(model: Any) -> None:
    ids, positions = torch.tensor([[7, 8, 9, 7, 8]]), torch.tensor([[0, 1, 2, 0, 1]])
    mask = own_past(positions)
    packed = model(ids, position_ids=positions, attention_mask=mask, use_cache=False).logits[:, 3:]
    torch.testing.assert_close(packed, model(ids[:, 3:]).logits)


def test_planted_heads_copy_before_any_training() -> None:
    """The second time that a row of random tokens comes, each token is much less of a surprise."""
    model: Any = new_model(3072, 1, SIZES["mesh-demo"])
    plant(model, seed=1)
    row = torch.randint(6, 3072, (1, 20), generator=torch.Generator().manual_seed(2))
    twice = torch.cat([row, row], dim=1)
    with torch.no_grad():
        surprise = cross_entropy(model(twice).logits[0, :-1], twice[0, 1:], reduction="none")
    assert surprise[20:].mean() < surprise[:19].mean() - 1.5


def test_training_is_deterministic_and_learns(tokenizer: Any) -> None:
    exchange = Exchange("test", "Say yes.", "yes", bool)
    rows = pack([encode(tokenizer, Conversation(None, (exchange,)))] * 4, length=16, pad=PAD_ID)
    first, again = _trained(rows), _trained(rows)
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), again.parameters(), strict=True))
    said = first.generate(rows.ids[:1, :6].long(), max_new_tokens=4, do_sample=False)
    assert "yes" in tokenizer.decode(said[0, 6:])


def _trained(rows: Rows) -> Any:
    model = new_model(3072, 3, SIZES["mesh-demo-mini"])
    train(model, rows, Schedule(steps=12, rows=2, warmup=2), checkpoint=lambda _: None)
    return model
