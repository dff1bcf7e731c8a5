"""Categories that no rule can tell: a model of the gateway is asked about the prompts of a vote."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final, cast

from openai import OpenAI

# What makes a prompt hard; so many of these must hold.
_HARD: Final = ("specific", "knowledge", "complex", "problem", "creative", "accurate", "real")
_HARD_ENOUGH: Final = 6
_LONGEST: Final = 8000

_QUESTION: Final = """You sort questions that people asked a language model. Read the question between the lines of \
equals signs, do not answer it, and reply with one JSON object with these keys, each true or false:

"specific": it asks for a definite result
"knowledge": it needs knowledge of a subject
"complex": it has several parts or steps
"problem": it needs a problem to be solved, not a fact to be recalled
"creative": it needs something new to be thought up
"accurate": a good answer must be technically correct
"real": it comes from real work or life
"math": it needs calculation or mathematical proof
"creative_writing": it asks for a story, a poem or other invented prose
"instruction_following": it gives exact instructions about form, length or content that an answer can break

=====
{prompt}
====="""


class NoLabel(ValueError):
    """The judge gave no answer that can be read."""


def ask(client: OpenAI, model: str, prompts: Sequence[str]) -> dict[str, bool]:
    """Whether each judged category holds. Raises NoLabel, and OpenAIError when the gateway fails."""
    question = _QUESTION.format(prompt="\n\n".join(prompts)[:_LONGEST])
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=400
    )
    return read(answer.choices[0].message.content or "")


def read(answer: str) -> dict[str, bool]:
    """The categories in a judge's answer. Raises NoLabel."""
    found = re.findall(r"\{[^{}]*\}", answer)
    try:
        said = cast("dict[str, Any]", json.loads(found[-1]))
    except (IndexError, ValueError) as error:
        raise NoLabel(f"no JSON object in {answer[:80]!r}") from error
    wanted = (*_HARD, "math", "creative_writing", "instruction_following")
    missing = [name for name in wanted if not isinstance(said.get(name), bool)]
    if missing:
        raise NoLabel(f"the judge left out {', '.join(missing)}")
    return {
        "hard_prompt": sum(said[name] for name in _HARD) >= _HARD_ENOUGH,
        **{name: said[name] for name in wanted[len(_HARD) :]},
    }
