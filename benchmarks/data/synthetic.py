"""Made-up conversations in ShareGPT's shape: HTML answers with code and tables, some equal or nearly so."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

_SYLLABLES: Final = "ba ce di fo gu ha je ki lo mu na pe ri so tu va we xi yo zu".split()
_WORDS: Final = 4000
_PARAGRAPHS: Final = 3000
_REPEATED: Final = 0.05
"""The share of conversations that are one from before, half of them with a word more."""
_REMEMBERED: Final = 500


def write(path: Path, size: int, seed: int = 0) -> int:
    """About `size` bytes of JSON lines; returns how many lines. The same file for the same size and seed."""
    written = lines = 0
    with path.open("wb") as file:
        for record in _records(random.Random(seed)):
            line = json.dumps({"id": f"made-{lines}", **record}, ensure_ascii=False).encode() + b"\n"
            file.write(line)
            written += len(line)
            lines += 1
            if written >= size:
                return lines
    return lines


def write_questions(path: Path, questions: Path, every: int = 1000) -> None:
    """The first question of each so many conversations of a file, as a benchmark has them."""
    with path.open("rb") as file, questions.open("w", encoding="utf-8") as out:
        for line in islice(file, 0, None, every):
            out.write(json.dumps({"question": json.loads(line)["conversations"][0]["value"]}) + "\n")


def _records(dice: random.Random) -> Iterator[dict[str, Any]]:
    words = ["".join(dice.choices(_SYLLABLES, k=dice.randint(1, 4))) for _ in range(_WORDS)]
    paragraphs = [" ".join(dice.choices(words, k=dice.randint(20, 60))).capitalize() + "." for _ in range(_PARAGRAPHS)]
    before: list[list[dict[str, str]]] = []
    while True:
        if before and dice.random() < _REPEATED:
            turns = [dict(turn) for turn in dice.choice(before)]
            if dice.random() < 0.5:
                turns[-1]["value"] += " " + dice.choice(words)
        else:
            turns = _turns(dice, words, paragraphs)
            before = [*before[-_REMEMBERED:], turns]
        yield {"conversations": turns, "model": dice.choice(("model-a", "model-b"))}


def _turns(dice: random.Random, words: list[str], paragraphs: list[str]) -> list[dict[str, str]]:
    turns: list[dict[str, str]] = []
    for _ in range(min(20, 1 + int(dice.expovariate(0.4)))):
        turns.append({"from": "human", "value": " ".join(dice.choices(words, k=dice.randint(5, 30))) + "?"})
        turns.append({"from": "gpt", "value": _answer(dice, words, paragraphs)})
    return turns


def _answer(dice: random.Random, words: list[str], paragraphs: list[str]) -> str:
    prose = dice.choices(paragraphs, k=dice.randint(1, 6))
    if dice.random() < 0.5:
        return "\n\n".join(prose)
    parts = [f"<p>{text}</p>" for text in prose]
    if dice.random() < 0.3:
        code = "\n".join(f"{a} = {b} &lt; {c}" for a, b, c in (dice.choices(words, k=3) for _ in range(6)))
        parts.append(
            f'<pre><div>python<button>Copy code</button></div><code class="language-python">{code}</code></pre>'
        )
    if dice.random() < 0.1:
        row = "".join(f"<td>{word}</td>" for word in dice.choices(words, k=3))
        parts.append(f"<table><tr><th>a</th><th>b</th><th>c</th></tr><tr>{row}</tr></table>")
    return f'<div class="markdown">{"".join(parts)}</div>'
