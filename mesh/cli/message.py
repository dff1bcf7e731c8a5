"""`mesh ctl message`: does this model answer, here, now, and how fast?"""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass

from mesh.cli.answering.endpoint import Answer, Piece
from mesh.cli.chat.display import SimpleDisplay, answer_fields, note_of
from mesh.cli.target import TargetConfig, open_target
from mesh.config import option
from mesh.counted import counted


@dataclass(frozen=True)
class MessageConfig(TargetConfig):
    """Send a model a test message, through the gateway or straight to a worker, and tell how fast it answers."""

    text: tuple[str, ...] = option((), "What to say. Default: Hello!", positional=True)
    max_tokens: int = option(64, "Longest answer.", low=1)
    temperature: float = option(0.0, "0 takes the likeliest tokens: the same answer each time.", low=0)
    json: bool = option(False, "Print JSON instead.")


def message(config: MessageConfig) -> None:
    """Send it. Raises MeshError and ConnectionError."""
    endpoint, model = open_target(config)
    body = {
        "model": model,
        "messages": [{"role": "user", "content": " ".join(config.text) or "Hello!"}],
        "max_tokens": config.max_tokens,
        "temperature": config.temperature,
    }
    display = None if config.json else SimpleDisplay()
    answer = Answer()
    with contextlib.closing(endpoint), contextlib.closing(endpoint.answer(body)) as events:
        for event in events:
            answer.take(event)
            if display is not None and isinstance(event, Piece):
                display.piece(event)
    where = {"model": model, "at": endpoint.where}
    if display is None:
        print(json.dumps({**where, **answer_fields(answer)}, ensure_ascii=False))
        return
    print()
    print(f"[{_speed(answer)} · {' '.join([model, 'at', endpoint.where]).strip()}]", file=sys.stderr)


def _speed(answer: Answer) -> str:
    first, pace = answer.first_token, answer.tokens_per_second
    parts = [f"{counted(answer.tokens, 'token')} in {answer.seconds:.2f} s"]
    parts += [f"the first after {first:.3f} s"] if first is not None else []
    parts += [f"then {pace:.0f}/s"] if pace is not None else []
    note = note_of(answer)
    return ", ".join([*parts, *([note] if note else [])])
