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

_TEXT = """\
# mesh-demo: the demonstration model of the inference mesh

{parameters:.1f} million parameters, {megabytes:.1f} MB, a Llama-shaped decoder ({layers} layers of width {width},
{heads} attention heads, {kv_heads} key-value heads, tied embeddings, context {context}) with a byte-level BPE
tokenizer of {vocabulary} entries. Made by this project from nothing: no weights and no texts of others are in it.

## What it is for

`mesh up` serves it when no other model is given, so that the mesh can be tried and tested without a download.
It chats a little, does small sums, tells short stories, writes lists and JSON, and answers questions about the
mesh.

## What it is not

It is not a useful language model. It has seen nothing but sentences from our own templates: it knows no more
than a handful of facts about the world, cannot reason, translates nothing and writes no code. What it says
outside of its subjects, and now and then within them, is wrong. Do not build on its answers; point the mesh at
a real model with `--model-path`.

## Figures

Examined on {asked} questions from wordings and operands that are kept apart from training, once greedily and once
sampled at temperature {temperature}. They are not all new to it: some come out equal to a training text but for case
and punctuation, and some of the wordings were chosen after the mistakes of an earlier model had been read
(`training/demo/README.md` has the count). The shares are of this examination's mix and do not compare with another's.

An answer is right when it ends by itself and holds what the kind asks for: the exact
result of a sum, JSON that parses and has the values or keys asked for, so many different members of the right
kind, the key words of a fact, the hero of a story. "Known words" is the share of words that the training texts
or the question contain. All pairs of the multiplication table, all facts and all steps of a task are in training
by design: there only the wording is new.

{table}

## Some answers, greedy

{samples}

## How to make it again

    python -m training.demo --seed {seed} --steps {steps} --conversations {conversations} --threads {threads}

{tokens:.1f} million tokens in all steps together, {minutes:.0f} minutes of training. Everything is seeded, and
short runs were seen to repeat exactly; a whole run was not repeated. License: as the project.
"""


@dataclass(frozen=True)
class Facts:
    """What the card states about the model and its making; `minutes` is wall time of training."""

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
    threads: int
    conversations: int
    tokens: int
    minutes: float


def sample_questions() -> list[Question]:
    """The questions whose answers the card shows."""
    return [Question("sample", [{"role": "user", "content": text}], bool) for text in SAMPLES]


def model_card(facts: Facts, scores: Sequence[Score], samples: Sequence[Answer]) -> str:
    """The card in Markdown."""
    return _TEXT.format(
        **{
            **vars(facts),
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
