"""Tokens and speed, of the last answer and of all of a session."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.cli.answering.endpoint import Answer
from mesh.counted import counted


@dataclass
class Statistics:
    """Sums over the answers so far."""

    answers: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    first_token: float = 0.0
    paced_tokens: int = 0
    writing: float = 0.0
    last: Answer | None = None

    def add(self, answer: Answer) -> None:
        """Count an answer of which something came."""
        self.last = answer
        self.answers += 1
        self.prompt_tokens += (answer.end and answer.end.prompt_tokens) or 0
        self.tokens += answer.tokens
        self.first_token += answer.first_token or 0.0
        if answer.tokens_per_second is not None:
            self.paced_tokens += answer.tokens - 1
            self.writing += answer.writing

    def __str__(self) -> str:
        if self.last is None:
            return "no answer yet"
        prompt = self.last.end.prompt_tokens if self.last.end is not None else None
        pace = self.paced_tokens / self.writing if self.writing else None
        return "\n".join(
            [
                _line("last answer", prompt, self.last.tokens, self.last.first_token, self.last.tokens_per_second),
                _line(
                    counted(self.answers, "answer"),
                    *(self.prompt_tokens, self.tokens, self.first_token / self.answers, pace),
                ),
            ]
        )

    @property
    def short(self) -> str:
        """The last answer in a few words; empty if there was none."""
        if self.last is None:
            return ""
        pace = self.last.tokens_per_second
        return counted(self.last.tokens, "token") + (f", {pace:.0f}/s" if pace else "")


def _line(what: str, prompt: int | None, tokens: int, first: float | None, pace: float | None) -> str:
    parts = ["-" if prompt is None else str(prompt), str(tokens)]
    times = ["-" if first is None else f"{first:.2f} s", "-" if pace is None else f"{pace:.1f}"]
    return f"{what:<12} prompt {parts[0]} tokens, answer {parts[1]}; first token {times[0]}, then {times[1]} tokens/s"
