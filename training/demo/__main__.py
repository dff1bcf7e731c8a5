"""`python -m training.demo`: write the conversations, train, examine, and put the model in its folder."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import cast

import torch
import transformers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from mesh.demo import model_path
from training.demo.card import Facts, model_card, sample_questions
from training.demo.conversation import Conversation
from training.demo.copying import plant
from training.demo.corpus import conversations
from training.demo.evaluate import TEMPERATURE, Score, ask, questions, score, table, words_of
from training.demo.model import Schedule, new_model, save, train
from training.demo.packing import pack
from training.demo.tokenizer import PAD_ID, encode, texts_of, train_tokenizer

_ROW = 640
"""Tokens of a packed row: the longest conversation that is learnt whole."""

_TOKENIZER_TEXTS = 20_000
_VOCABULARY_TEXTS = 5_000


def main() -> None:
    """Entry point; see `--help`."""
    options = _options()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    written = list(conversations(f"demo/{options.seed}", options.conversations))
    minutes = 0.0
    if not options.eval_only:
        minutes = _make(options, written)
    model, tokenizer = _load(options.output)
    scores = _examine(options, model, tokenizer, written)
    print(table(scores))
    if not options.eval_only:
        card = _card(options, model, tokenizer, scores, minutes)
        (options.output / "MODEL_CARD.md").write_text(card, encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=model_path(), help="model folder (default: the shipped one)")
    parser.add_argument("--seed", type=int, default=1, help="of conversations and weights (default: 1)")
    parser.add_argument("--conversations", type=int, default=36_000, help="how many to write (default: 36000)")
    parser.add_argument("--steps", type=int, default=3000, help="training steps of 1,280 tokens (default: 3000)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--checkpoints", type=Path, help="save the model here after every tenth of the steps")
    parser.add_argument("--eval-only", action="store_true", help="examine the model in --output, change nothing")
    parser.add_argument(
        "--questions", type=int, default=80, help="examination: conversations of each writer (default: 80)"
    )
    return parser.parse_args()


def _make(options: argparse.Namespace, written: list[Conversation]) -> float:
    """Train from nothing and save; returns the minutes of training."""
    tokenizer = train_tokenizer(texts_of(written[-_TOKENIZER_TEXTS:]))
    rows = pack((encode(tokenizer, one) for one in written), _ROW, PAD_ID)
    model = new_model(len(tokenizer), options.seed)
    plant(model, options.seed)
    _say(f"{len(written)} conversations in {len(rows)} rows, {model.num_parameters()} parameters")

    def checkpoint(step: int) -> None:
        if options.checkpoints is not None and step < options.steps:
            save(model, tokenizer, options.checkpoints)

    started = time.monotonic()
    train(model, rows, Schedule(options.steps), checkpoint)
    minutes = (time.monotonic() - started) / 60
    save(model, tokenizer, options.output)
    _say(f"trained in {minutes:.0f} minutes, saved in {options.output}")
    return minutes


def _load(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The saved model, with its weights as shipped but computing in float32."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    tokenizer = cast("PreTrainedTokenizerFast", PreTrainedTokenizerFast.from_pretrained(folder))
    return model, tokenizer


def _examine(
    options: argparse.Namespace,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    written: list[Conversation],
) -> list[Score]:
    asked = questions(str(options.seed), options.questions)
    _say(f"examination: {len(asked)} questions, twice")
    greedy = ask(model, tokenizer, asked, 0.0)
    torch.manual_seed(options.seed)
    sampled = ask(model, tokenizer, asked, TEMPERATURE)
    for answer in greedy:
        if not answer.right:
            _say(f"wrong ({answer.question.kind}): {answer.question.messages[-1]['content']!r} -> {answer.text!r}")
    return score(greedy, sampled, words_of(texts_of(written[-_VOCABULARY_TEXTS:])))


def _card(
    options: argparse.Namespace,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    scores: list[Score],
    minutes: float,
) -> str:
    config = model.config
    schedule = Schedule(options.steps)
    facts = Facts(
        parameters=model.num_parameters(),
        bytes=(options.output / "model.safetensors").stat().st_size,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads or config.num_attention_heads,
        context=config.max_position_embeddings,
        vocabulary=config.vocab_size,
        seed=options.seed,
        steps=options.steps,
        threads=options.threads,
        conversations=options.conversations,
        tokens=options.steps * schedule.rows * _ROW,
        minutes=minutes,
    )
    return model_card(facts, scores, ask(model, tokenizer, sample_questions(), 0.0))


def _say(line: str) -> None:
    """Progress goes to standard error; standard output holds the table alone."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
