"""A demonstration model made: write the conversations, train, examine, and put the model in its folder."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import torch
import transformers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from mesh.demo import model_path
from training.demo.card import Facts, model_card, sample_questions
from training.demo.config import DemoConfig
from training.demo.copying import plant
from training.demo.corpus import conversations
from training.demo.evaluate import TEMPERATURE, Question, Score, ask, questions, score, table, words_of
from training.demo.model import SIZES, Schedule, new_model, save, train
from training.demo.tokenizer import texts_of, train_tokenizer
from training.demo.writing import ROW, Order, key, keys_in, write_rows

_TOKENIZER_TEXTS = 20_000
_VOCABULARY_TEXTS = 5_000
_RECIPE = "recipe.json"


@dataclass(frozen=True)
class Recipe:
    """How a model was made; written beside it, so that it can be examined later on what it has not seen."""

    name: str
    seed: int
    conversations: int
    steps: int
    rows: int
    device: str
    minutes: float = 0.0

    @property
    def order(self) -> Order:
        return Order(f"demo/{self.seed}", self.conversations)

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.steps, self.rows)


_USUAL = {"cpu": (36_000, 3000, 2), "cuda": (1_500_000, 5000, 96)}
"""Conversations, steps, and rows of a step: what two cores do in half an hour, and a GPU in five minutes."""


def make(config: DemoConfig) -> None:
    """Do what is asked."""
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(config.threads)
    folder = config.output or model_path(config.model)
    recipe = _read(folder) if config.eval_only else _make(config, folder)
    if not config.eval:
        return
    model, tokenizer = _load(folder)
    asked, known = _questions(recipe, config)
    scores = _examine(recipe, model, tokenizer, asked)
    print(table(scores))
    print(f"{known} questions more were left out: the conversations have them, too.")
    if not config.eval_only:
        _write_card(folder, recipe, model, tokenizer, scores, known)


def _make(config: DemoConfig, folder: Path) -> Recipe:
    """Train from nothing and save."""
    usual = _USUAL[config.device]
    recipe = Recipe(
        config.model,
        config.seed,
        config.conversations or usual[0],
        config.steps or usual[1],
        config.rows or usual[2],
        config.device,
    )
    order = recipe.order
    last = range(max(0, order.count - _TOKENIZER_TEXTS), order.count)
    tokenizer = train_tokenizer(texts_of(conversations(order.seed, order.count, last)))
    rows = write_rows(order, tokenizer, _jobs(config))
    model = new_model(len(tokenizer), recipe.seed, SIZES[recipe.name])
    plant(model, recipe.seed)
    _say(f"{order.count} conversations in {len(rows)} rows, {model.num_parameters()} parameters")

    def checkpoint(step: int) -> None:
        if config.checkpoints is not None and step < recipe.steps:
            save(model, tokenizer, config.checkpoints)

    started = time.monotonic()
    model.to(recipe.device)  # pyright: ignore[reportArgumentType, reportCallIssue]
    train(model, rows, recipe.schedule, checkpoint)
    made = replace(recipe, minutes=round((time.monotonic() - started) / 60, 1))
    save(model, tokenizer, folder)
    (folder / _RECIPE).write_text(json.dumps(asdict(made), indent=2) + "\n", encoding="utf-8")
    _say(f"trained in {made.minutes} minutes, saved in {folder}")
    return made


def _jobs(config: DemoConfig) -> int:
    return config.jobs or os.cpu_count() or 1


def _read(folder: Path) -> Recipe:
    return Recipe(**json.loads((folder / _RECIPE).read_text(encoding="utf-8")))


def _load(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The saved model, with its weights as shipped but computing in float32."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    tokenizer = cast("PreTrainedTokenizerFast", PreTrainedTokenizerFast.from_pretrained(folder))
    return model, tokenizer


def _questions(recipe: Recipe, config: DemoConfig) -> tuple[list[Question], int]:
    """The examination, less the questions that the conversations have, too; and how many these are."""
    drawn = questions(str(recipe.seed), config.questions)
    keys = [key([message["content"] for message in one.messages if message["role"] == "user"]) for one in drawn]
    seen = keys_in(recipe.order, frozenset(keys), _jobs(config))
    asked = [one for one, its_key in zip(drawn, keys, strict=True) if its_key not in seen]
    return asked, len(drawn) - len(asked)


def _examine(
    recipe: Recipe, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, asked: Sequence[Question]
) -> list[Score]:
    _say(f"examination: {len(asked)} questions, twice")
    greedy = ask(model, tokenizer, asked, 0.0)
    torch.manual_seed(recipe.seed)
    sampled = ask(model, tokenizer, asked, TEMPERATURE)
    for answer in greedy:
        if not answer.right:
            _say(f"wrong ({answer.question.kind}): {answer.question.messages[-1]['content']!r} -> {answer.text!r}")
    last = range(max(0, recipe.conversations - _VOCABULARY_TEXTS), recipe.conversations)
    known = words_of(texts_of(conversations(recipe.order.seed, recipe.conversations, last)))
    return score(greedy, sampled, known)


def _write_card(
    folder: Path,
    recipe: Recipe,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    scores: list[Score],
    known: int,
) -> None:
    config = model.config
    facts = Facts(
        name=recipe.name,
        parameters=model.num_parameters(),
        bytes=(folder / "model.safetensors").stat().st_size,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads or config.num_attention_heads,
        context=config.max_position_embeddings,
        vocabulary=config.vocab_size,
        seed=recipe.seed,
        steps=recipe.steps,
        rows=recipe.rows,
        device=recipe.device,
        conversations=recipe.conversations,
        tokens=recipe.steps * recipe.rows * ROW,
        minutes=recipe.minutes,
        known=known,
    )
    card = model_card(facts, scores, ask(model, tokenizer, sample_questions(), 0.0))
    (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")


def _say(line: str) -> None:
    """Progress goes to standard error; standard output holds the table alone."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
