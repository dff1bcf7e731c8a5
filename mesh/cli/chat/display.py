"""How a chat is shown: as plain text, or as lines of JSON for programs. Markdown is in markdown.py."""

from __future__ import annotations

import json
import re
import sys
from typing import Any, Protocol

from mesh.cli.answering.endpoint import Answer, Piece

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
# What a model writes must not steer the terminal: control characters but for tab and newline.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
STOPPED = "stopped"
CUT = "cut off at the limit of tokens"


class Display(Protocol):
    """Shows answers as they come, and what commands say."""

    def begin(self) -> None:
        """A question was sent."""
        ...

    def piece(self, piece: Piece) -> None:
        """Some of the answer."""
        ...

    def finish(self, answer: Answer, problem: str | None) -> None:
        """No more of it will come; `problem` is why it is not complete, in one line."""
        ...

    def say(self, text: str) -> None:
        """What a command has to tell."""
        ...

    def complain(self, text: str) -> None:
        """A command that could not be followed, in one line."""
        ...


class SimpleDisplay:
    """The answer's text as it is. In a pipe nothing else: no reasoning, and all notes go to standard error."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._reasoning = False

    def begin(self) -> None:
        """Nothing to show yet."""
        self._reasoning = False

    def piece(self, piece: Piece) -> None:
        """Write it; reasoning is dim."""
        if not self._terminal:
            self._write("" if piece.reasoning else piece.text)
            return
        mark = ""
        if piece.reasoning != self._reasoning:
            mark = _DIM if piece.reasoning else f"{_PLAIN}\n\n"
            self._reasoning = piece.reasoning
        self._write(mark + harmless(piece.text))

    def finish(self, answer: Answer, problem: str | None) -> None:
        """End the line, and tell what went wrong."""
        self._write((_PLAIN if self._reasoning else "") + "\n")
        note = problem or note_of(answer)
        if note:
            print(f"[{note}]", file=sys.stderr, flush=True)
        if self._terminal:
            self._write("\n")

    def say(self, text: str) -> None:
        """Write it."""
        print(text, file=sys.stderr, end="\n\n" if self._terminal else "\n", flush=True)

    def complain(self, text: str) -> None:
        """Write it."""
        self.say(f"[{text}]")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


class ProgrammaticDisplay:
    """One JSON object a line; docs/terminal.md lists them."""

    def begin(self) -> None:
        """Nothing to tell."""

    def piece(self, piece: Piece) -> None:
        """Some text or reasoning."""
        self._event("reasoning" if piece.reasoning else "text", text=piece.text)

    def finish(self, answer: Answer, problem: str | None) -> None:
        """The whole answer with its counts, and the error if it is not complete."""
        self._event("answer", **answer_fields(answer, problem))

    def say(self, text: str) -> None:
        """What a command tells."""
        self._event("note", text=text)

    def complain(self, text: str) -> None:
        """What could not be followed."""
        self._event("error", text=text)

    def _event(self, kind: str, **fields: Any) -> None:
        print(json.dumps({"event": kind, **fields}, ensure_ascii=False), flush=True)


def answer_fields(answer: Answer, problem: str | None = None) -> dict[str, Any]:
    """What programs are told of an answer; `problem` is why it is not complete."""
    end = answer.end
    return {
        "content": answer.text,
        "reasoning": answer.reasoning or None,
        "finish_reason": end.reason if end else STOPPED if problem == STOPPED else "error",
        "error": None if problem == STOPPED else problem,
        "prompt_tokens": end.prompt_tokens if end else None,
        "completion_tokens": answer.tokens,
        "first_token_seconds": _rounded(answer.first_token),
        "seconds": _rounded(answer.seconds),
    }


def harmless(text: str) -> str:
    """The text without characters that steer a terminal."""
    return _CONTROLS.sub("", text)


def note_of(answer: Answer) -> str | None:
    """What a reader should know of an answer that came to its end."""
    return CUT if answer.end is not None and answer.end.reason == "length" else None


def _rounded(seconds: float | None) -> float | None:
    """To the tenth of a millisecond."""
    return None if seconds is None else round(seconds, 4)
