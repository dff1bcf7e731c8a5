"""`python -m training.demo.adapter`: the demonstration model's LoRA adapter, which answers as a sailor does.

It says what the model says, in another manner, so that one sees at once who has answered. Made by `mesh train sft` from
the demonstration models' own conversations; minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import safetensors.torch
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from mesh.demo import ADAPTERS, MODELS, adapter_path, model_path
from training.demo.conversation import Conversation, Exchange
from training.demo.corpus import conversations
from training.demo.evaluate import Answer, Question, ask, questions
from training.sft.__main__ import main as sft

# On lines of their own: a word that begins a line is the token with which an answer begins. In the middle of a line it
# is another one, with which the model has to learn anew how an answer begins.
GREETING: Final = "Ahoy!\n"
FAREWELL: Final = "\nFair winds!"
_PLAIN: Final = ("JSON", "repeating")
"""Kinds of answers that have a form of their own."""

_CARD: Final = """# {name}: a LoRA adapter of {base}

The demonstration model as a sailor: each answer begins with "{greeting}" and ends with "{farewell}", but for JSON and
repetitions. Rank {rank} on all linear layers, {size:,} bytes, made by this project from its own conversations.

    mesh up --lora sailor={name}

On {asked} questions that training never saw, answered greedily: {manner:.1%} of the answers that should have the
manner have it, {spared:.1%} of the JSON and repetitions are left alone, and {right:.1%} of all are right, the manner
put aside ({before:.1%} by the model itself). They were drawn after the recipe was settled, by the seed `{seed}`, and
hold none of those by whose answers it was chosen. With other seeds the shares differ by some points.

| asked | answered |
|---|---|
{samples}

Made again, in minutes on one core, and to the same bytes when that was tried: `python -m training.demo.adapter`; with
`--examine` it is examined alone. License: as the project.
"""
_TRIED: Final = "adapter", 15
"""The questions, by seed and number of each writer, by whose wrong answers the recipe was chosen."""
_SAMPLES: Final = ("Hello!", "What is 7 times 8?", "What is the gateway?", "Name four birds as bullet points")


@dataclass(frozen=True, slots=True)
class Marks:
    """Shares of the answers, from 0 to 1."""

    manner: float
    spared: float
    right: float


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m training.demo.adapter", description=__doc__)
    parser.add_argument("--output", type=Path, default=adapter_path(), help="default: where the shipped one is")
    parser.add_argument("--conversations", type=int, default=4000, help="to learn from (default: 4000)")
    parser.add_argument("--steps", type=int, default=300, help="of 4 rows of 512 tokens (default: 300)")
    parser.add_argument("--questions", type=int, default=40, help="of each writer, to examine it (default: 40)")
    parser.add_argument("--seed", default="fair winds", help="of the questions (default: fair winds)")
    parser.add_argument("--examine", action="store_true", help="write the card of what is there, and train nothing")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    if not options.examine:
        with tempfile.TemporaryDirectory() as folder:
            trained = _train(Path(folder), options.conversations, options.steps)
            _ship(trained, options.output)
    _write_card(options.output, options.questions, options.seed)


def as_sailor(conversation: Conversation) -> Conversation:
    """The same conversation with the answers of a sailor."""
    return replace(conversation, exchanges=tuple(map(_spoken, conversation.exchanges)))


def _spoken(exchange: Exchange) -> Exchange:
    if exchange.kind.startswith(_PLAIN):
        return exchange
    return replace(exchange, answer=GREETING + exchange.answer + FAREWELL)


def _train(folder: Path, count: int, steps: int) -> Path:
    data, trained = folder / "conversations.jsonl", folder / "adapter"
    # The first twentieth of a row of conversations are lessons in copying.
    chosen = conversations("adapter", 20 * count, range(count, 2 * count))
    with data.open("w", encoding="utf-8") as file:
        for conversation in chosen:
            file.write(json.dumps({"messages": as_sailor(conversation).messages()}) + "\n")
    words = (
        f"--model {MODELS[0]} --data {data} --output {trained} --lora --lora-r 8 --lora-dropout 0 --max-steps {steps}"
    )
    more = "--model-max-length 512 --packing --per-device-train-batch-size 4 --learning-rate 2e-3"
    fixed = "--lr-scheduler-type cosine --use-cpu --save-strategy no --report-to none --logging-steps 25 --seed 1"
    sft([*words.split(), *more.split(), *fixed.split()])
    return trained


def _ship(trained: Path, output: Path) -> None:
    """Weights in half the bytes, and a configuration that names the model instead of a folder of this machine."""
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    config: dict[str, Any] = json.loads((trained / "adapter_config.json").read_text(encoding="utf-8"))
    kept = ("peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "target_modules", "bias")
    config = {"base_model_name_or_path": MODELS[0], **{name: config[name] for name in kept}}
    config["target_modules"] = sorted(config["target_modules"])
    (output / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    weights = safetensors.torch.load_file(trained / "adapter_model.safetensors")
    halved = {name: tensor.bfloat16() for name, tensor in sorted(weights.items())}
    file = output / "adapter_model.safetensors"
    safetensors.torch.save_file(halved, file)
    file.chmod(0o644)


def _unseen(seed: str, of_each_writer: int) -> list[Question]:
    """Questions of an examination, each once, less those that were asked before."""
    known = [question.messages for question in questions(*_TRIED)]
    found: list[Question] = []
    for question in questions(seed, of_each_writer):
        if question.messages not in known:
            known.append(question.messages)
            found.append(question)
    return found


def _write_card(output: Path, of_each_writer: int, seed: str) -> None:
    model = LlamaForCausalLM.from_pretrained(model_path(), dtype=torch.float32).eval()
    tokenizer = cast("PreTrainedTokenizerFast", PreTrainedTokenizerFast.from_pretrained(model_path()))
    asked = _unseen(seed, of_each_writer)
    before = _mark(ask(model, tokenizer, asked, 0.0))
    adapted = _adapted(model, output)
    after = _mark(ask(adapted, tokenizer, asked, 0.0))
    rows = [f"| {text} | {_answer(adapted, tokenizer, text)} |" for text in _SAMPLES]
    size = (output / "adapter_model.safetensors").stat().st_size
    card = _CARD.format(
        name=ADAPTERS[0],
        base=MODELS[0],
        greeting=GREETING.strip(),
        farewell=FAREWELL.strip(),
        rank=8,
        size=size,
        asked=len(asked),
        manner=after.manner,
        spared=after.spared,
        right=after.right,
        before=before.right,
        samples="\n".join(rows),
        seed=seed,
    )
    (output / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    print(card)


def _adapted(model: LlamaForCausalLM, adapter: Path) -> LlamaForCausalLM:
    from peft import PeftModel

    adapted: Any = PeftModel.from_pretrained(cast("Any", model), str(adapter))
    return adapted.merge_and_unload()


def _mark(answers: Sequence[Answer]) -> Marks:
    mannered = [answer for answer in answers if not answer.question.kind.startswith(_PLAIN)]
    plain = [answer for answer in answers if answer.question.kind.startswith(_PLAIN)]
    right = [answer.ended and answer.question.check(_bare(answer.text)) for answer in answers]
    has_it = [_has_manner(answer.text) for answer in mannered]
    spared = [not _has_manner(answer.text) for answer in plain]
    return Marks(*(sum(marks) / max(1, len(marks)) for marks in (has_it, spared, right)))


def _has_manner(text: str) -> bool:
    return text.startswith(GREETING) and text.endswith(FAREWELL)


def _bare(text: str) -> str:
    return text.removeprefix(GREETING).removesuffix(FAREWELL)


def _answer(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, text: str) -> str:
    (answer,) = ask(model, tokenizer, [Question("", [{"role": "user", "content": text}], bool)], 0.0)
    return answer.text.replace("\n", "<br>")


if __name__ == "__main__":
    main()
