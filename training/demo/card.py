"""The model card: what the model is, what it is not, its figures, some of its answers, and how to make it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from training.demo.evaluate import TEMPERATURE, Answer, Question, Score, table

SAMPLES = (
    "Hello!",
    "What is 7 times 8?",
    "What is the gateway?",
    "How do I use a real model?",
    "What happens when a worker dies?",
    "Name four birds as bullet points",
    "Give me a JSON object with name Anna and age 31.",
    "Tell me a story about a fox.",
    "Who won the football game yesterday?",
)

_TITLES = {
    "mesh-demo": "the demonstration model of the inference mesh",
    "mesh-demo-mini": "the smaller demonstration model of the inference mesh",
}

_TEXT = """\
# {name}: {title}

{parameters:.1f} million parameters, {megabytes:.1f} MB, a Llama-shaped decoder ({layers} layers of width {width},
{heads} attention heads, {kv_heads} key-value heads, tied embeddings, context {context}) with a byte-level BPE
tokenizer of {vocabulary} entries. Made by this project from nothing: no weights and no texts of others are in it.

## What it is for

`mesh up` serves both demonstration models when no other is given, so that the mesh can be tried and tested without a
download, and two models be compared.
It chats a little, does small sums, tells short stories, writes lists and JSON, and answers questions about the
mesh.

## What it is not

It is not a useful language model. It has seen nothing but sentences from our own templates: it knows no more
than a handful of facts about the world, cannot reason, translates nothing and writes no code. What it says
outside of its subjects, and now and then within them, is wrong. Do not build on its answers; point the mesh at
a real model with `--model-path`.

## Figures

Examined on {asked} questions, once greedily and once sampled at temperature {temperature}. Their wordings and operands
are kept apart from training; {known} more that were drawn are left out, because the training conversations have them,
too, but for case and punctuation. The shares are of this examination's mix and do not compare with another's.

An answer is right when it ends by itself and holds what the kind asks for: the exact
result of a sum, JSON that parses and has the values or keys asked for, so many different members of the right
kind, the key words of a fact, the hero of a story. "Known words" is the share of words that the training texts
or the question contain. All pairs of the multiplication table, all facts and all steps of a task are in training
by design: there only the wording is new.

{table}

## Some answers, greedy

{samples}

## How to make it again

    python -m training.demo --model {name} --seed {seed} --device {device} \\
      --conversations {conversations} --steps {steps} --rows {rows}

{tokens:.1f} million tokens in all steps together, {minutes:.1f} minutes of training on one {device} device. All is
seeded; on a CPU short runs were seen to repeat exactly, a GPU adds in an order of its own. License: as the project.
"""


@dataclass(frozen=True)
class Facts:
    """What the card states about the model and its making; `minutes` is wall time of training."""

    name: str
    parameters: int
    bytes: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    context: int
    vocabulary: int
    seed: int
    steps: int
    rows: int
    device: str
    conversations: int
    tokens: int
    minutes: float
    known: int


def sample_questions() -> list[Question]:
    """The questions whose answers the card shows."""
    return [Question("sample", [{"role": "user", "content": text}], bool) for text in SAMPLES]


def model_card(facts: Facts, scores: Sequence[Score], samples: Sequence[Answer]) -> str:
    """The card in Markdown."""
    return _TEXT.format(
        **{
            **vars(facts),
            "title": _TITLES[facts.name],
            "parameters": facts.parameters / 1e6,
            "megabytes": facts.bytes / 1e6,
            "tokens": facts.tokens / 1e6,
        },
        asked=scores[-1].asked,
        temperature=TEMPERATURE,
        table=table(scores),
        samples="\n\n".join(_sample(answer) for answer in samples),
    )


def _sample(answer: Answer) -> str:
    quoted = "\n".join(f"> {line}  " for line in answer.text.splitlines())
    return f"**{answer.question.messages[-1]['content']}**\n\n{quoted}"
