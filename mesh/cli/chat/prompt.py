"""The line where a person types: several lines, a history that is kept, completion."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output
from prompt_toolkit.styles import Style

from mesh.cli.chat.commands import COMMANDS
from mesh.cli.chat.parameters import PARAMETERS

_MARK, _MORE = "> ", "… "
_STYLE = Style.from_dict({"bottom-toolbar": "noreverse", "bottom-toolbar.text": "ansibrightblack noreverse"})


class Prompt:
    """Asks for a message or a command. `models` are the names to complete, `status` a line below."""

    def __init__(self, models: Callable[[], list[str]], status: Callable[[], str]) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=_history(),
            completer=_Completer(models),
            complete_while_typing=True,
            complete_in_thread=True,  # names of models are asked for
            reserve_space_for_menu=4,
            multiline=True,
            prompt_continuation=_MORE,
            key_bindings=_keys(),
            bottom_toolbar=status,
            style=_STYLE,
            enable_open_in_editor=True,
            # Not into a pipe that takes the answers.
            output=None if sys.stdout.isatty() else create_output(always_prefer_tty=True),
        )

    def ask(self) -> str:
        """What was typed. Raises EOFError at Ctrl-D, KeyboardInterrupt at Ctrl-C."""
        return self._session.prompt(_MARK)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return keys


class _Completer(Completer):
    """Names of commands, and behind one what it takes. Nothing in messages."""

    def __init__(self, models: Callable[[], list[str]]) -> None:
        self._models = models
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, space, argument = text.partition(" ")
        if not space:
            for other, command in COMMANDS.items():
                if other.startswith(name):
                    yield Completion(other, -len(name), display_meta=command.help)
        elif name in COMMANDS:
            yield from self._arguments(COMMANDS[name].completes, argument, complete_event)

    def _arguments(self, kind: str, argument: str, event: CompleteEvent) -> Iterable[Completion]:
        if kind == "file":
            yield from self._paths.get_completions(Document(argument), event)
        names = {"model": self._models, "parameter": lambda: list(PARAMETERS)}.get(kind, list[str])
        for name in names():
            if name.startswith(argument) and name != argument:
                yield Completion(name, -len(argument))


def _history() -> History:
    """In the user's folder for such things; in memory alone where that cannot be written."""
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    path = Path(home).expanduser() / "inference-mesh" / "chat_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)
