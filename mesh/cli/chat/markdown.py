"""Answers as Markdown, formatted while they come.

What is complete is printed once and scrolls away like any output; only the block that is still being written (a
paragraph, a list, a block of code) is drawn again and again, its last lines if it is taller than the screen.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import nullcontext

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.text import Text
from rich.theme import Theme

from mesh.cli.answering.endpoint import Answer, Piece
from mesh.cli.chat.display import harmless, note_of

_PER_SECOND = 12
# The terminal's own colours, readable on any background.
_CODE = "ansi_dark"
_parser = MarkdownIt().enable("strikethrough").enable("table")


class MarkdownDisplay:
    """Draws answers on a terminal; writes them whole elsewhere."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, theme=Theme({"markdown.code": "cyan"}))
        self._tail = _Tail()
        self._drawing: _Drawing | None = None
        self._reasoning = False
        self._printed = False

    def begin(self) -> None:
        """Show that somebody is at it."""
        self._printed = self._reasoning = False
        self._tail = _Tail(waiting=True)
        if self._console.is_terminal:
            self._drawing = _Drawing(self._console, self._tail)

    def piece(self, piece: Piece) -> None:
        """Take it; blocks that are complete with it are printed."""
        with self._drawing or nullcontext():
            self._take(piece)

    def _take(self, piece: Piece) -> None:
        if piece.reasoning != self._reasoning:
            self._print_rest()
            self._reasoning = piece.reasoning
        done, rest = _split(self._tail.text + harmless(piece.text), plain=self._reasoning)
        self._tail.set(rest, reasoning=self._reasoning)
        for block in done:
            self._print(block)

    def finish(self, answer: Answer, problem: str | None) -> None:
        """Print what is left, and tell what went wrong."""
        with self._drawing or nullcontext():
            self._print_rest()
        if self._drawing is not None:
            self._drawing.stop()
            self._drawing = None
        note = problem or note_of(answer)
        if note:
            self._console.print(Text(f"[{note}]", style="yellow"))
        self._console.print()

    def say(self, text: str) -> None:
        """Print it dimmed, as it is."""
        self._console.print(Text(text, style="dim"), Text(), sep="\n")

    def complain(self, text: str) -> None:
        """Print it in the colour of warnings."""
        self._console.print(Text(f"[{text}]", style="yellow"), Text(), sep="\n")

    def _print_rest(self) -> None:
        done, rest = _split(self._tail.text + "\n", plain=self._reasoning)
        self._tail.set("", reasoning=self._reasoning)
        for block in [*done, rest]:
            self._print(block)

    def _print(self, text: str) -> None:
        """Above what is live. In one write, so that nothing flickers."""
        if not text.strip():
            return
        block = _Block(text.strip("\n"), reasoning=self._reasoning)
        self._console.print(*([Text("\n")] if self._printed else []), block, sep="", end="")
        self._printed = True


class _Drawing:
    """Draws the tail again and again from a thread of its own. Whoever prints or changes it holds this as a context:
    rich looks where the cursor is before it locks, so that two threads at once would erase each other's lines."""

    def __init__(self, console: Console, tail: _Tail) -> None:
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._live = Live(tail, console=console, auto_refresh=False, transient=True)
        self._live.start(refresh=True)
        self._thread = threading.Thread(target=self._draw, daemon=True)
        self._thread.start()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def stop(self) -> None:
        """Erase it."""
        self._stopped.set()
        self._thread.join()
        self._live.stop()

    def _draw(self) -> None:
        while not self._stopped.wait(1 / _PER_SECOND):
            with self:
                self._live.refresh()


class _Tail:
    """The block that is being written, as far as it fits on the screen."""

    def __init__(self, *, waiting: bool = False) -> None:
        self.text = ""
        self._reasoning = False
        self._waiting = waiting

    def set(self, text: str, *, reasoning: bool) -> None:
        self.text, self._reasoning, self._waiting = text, reasoning, False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        block = Text("…", style="dim") if self._waiting else _Block(self.text, reasoning=self._reasoning)
        lines = console.render_lines(block, options, pad=False)
        yield from _joined(lines[-max(1, console.size.height - 2) :])


class _Block:
    """Markdown, or reasoning, without the empty lines that some kinds of blocks have around them."""

    def __init__(self, text: str, *, reasoning: bool) -> None:
        self._shown = (
            Text(text, style="dim italic") if reasoning else Markdown(text, code_theme=_CODE, hyperlinks=False)
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._shown, options, pad=False)
        filled = [place for place, line in enumerate(lines) if any(segment.text.strip() for segment in line)]
        yield from _joined(lines[filled[0] : filled[-1] + 1] if filled else [])


def _joined(lines: list[list[Segment]]) -> Iterator[Segment]:
    for line in lines:
        yield from line
        yield Segment.line()


def _split(text: str, *, plain: bool) -> tuple[list[str], str]:
    """The blocks that nothing can be added to any more, and the last one, which may go on."""
    if plain:
        *done, rest = text.split("\n\n")
        return done, rest
    # A line that is not complete may yet turn out to belong to the block before.
    complete = text[: text.rfind("\n") + 1]
    starts = [token.map[0] for token in _parser.parse(complete) if token.level == 0 and token.map is not None]
    if not starts:
        return [], text
    lines = text.split("\n")
    done = ["\n".join(lines[start:end]) for start, end in itertools.pairwise(starts)]
    return done, "\n".join(lines[starts[-1] :])
