"""What can be typed in a chat besides messages: lines that begin with a slash."""

from __future__ import annotations

import base64
import json
import mimetypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

from mesh.cli.answering.endpoint import sentence
from mesh.cli.chat.chat import Chat
from mesh.cli.chat.conversation import text_of
from mesh.cli.chat.parameters import PARAMETERS, parse, unknown
from mesh.cli.chat.saved import Saved, load, save
from mesh.errors import MeshError, invalid

_SHOWN = 60
KEYS: Final = "Enter sends; Alt-Enter, or \\ before Enter, begins a new line. Ctrl-C stops an answer, Ctrl-D leaves."


class Leave(Exception):
    """The chat is over."""


@dataclass(frozen=True)
class Command:
    """A command: what it takes, what it does, what completes its argument, and what does it.

    `run` takes the argument, stripped, and returns what there is to tell, or whether it went well.
    """

    argument: str
    help: str
    run: Callable[[Chat, str], str | bool]
    completes: Literal["", "file", "model", "parameter"] = ""


def run(chat: Chat, line: str) -> bool:
    """Follow a line that begins with a slash; returns whether that could be done. Raises Leave."""
    name, _, argument = line.partition(" ")
    try:
        if name not in COMMANDS:
            raise unknown("command", name, list(COMMANDS))
        command = COMMANDS[name]
        if argument.strip() and not command.argument:
            raise invalid("command", f"{name} takes nothing after it, not '{argument.strip()}'")
        result = command.run(chat, argument.strip())
    except MeshError as error:
        chat.display.complain(error.message)
        return False
    except OSError as error:
        chat.display.complain(sentence(error))
        return False
    if isinstance(result, str):
        chat.display.say(result)
    return bool(result)


def _help(chat: Chat, argument: str) -> str:
    names = [f"{name} {command.argument}".rstrip() for name, command in COMMANDS.items()]
    width = max(map(len, names))
    lines = [f"{name:<{width}}  {command.help}" for name, command in zip(names, COMMANDS.values(), strict=True)]
    return "\n".join([*lines, "", KEYS])


def _reset(chat: Chat, argument: str) -> str:
    chat.conversation.reset()
    chat.images = []
    return "A new conversation."


def _undo(chat: Chat, argument: str) -> str:
    return f"Removed: {_short(chat.conversation.remove())}"


def _remove(chat: Chat, argument: str) -> str:
    if not argument.isdecimal():
        raise invalid("number", f"/remove takes the number of an exchange, not '{argument}'; /show lists them")
    return f"Removed: {_short(chat.conversation.remove(int(argument)))}"


def _regenerate(chat: Chat, argument: str) -> bool:
    return chat.regenerate()


def _save(chat: Chat, argument: str) -> str:
    path = _path(argument, "/save")
    save(path, Saved(chat.conversation, chat.model, chat.parameters))
    return f"Saved to {path}."


def _load(chat: Chat, argument: str) -> str:
    path = _path(argument, "/load")
    saved = load(path)
    chat.conversation, chat.parameters, chat.images = saved.conversation, saved.parameters, []
    notes = [f"Loaded {len(saved.conversation.exchanges)} exchanges from {path}."]
    if saved.model and saved.model != chat.model:
        if saved.model in chat.endpoint.models():
            chat.model = saved.model
        else:
            notes.append(f"Its model '{saved.model}' is not served here; {chat.model} goes on.")
    if saved.left_out:
        notes.append(f"Left out: {', '.join(saved.left_out)}.")
    return "\n".join(notes)


def _system(chat: Chat, argument: str) -> str:
    chat.conversation.system = argument or None
    return "The system message is set." if argument else "There is no system message any more."


def _set(chat: Chat, argument: str) -> str:
    name, _, text = argument.partition(" ")
    if not name:
        return "\n".join(f"{name:<21} {meaning}" for name, (_, meaning) in PARAMETERS.items())
    if not text.strip():
        if name not in PARAMETERS:
            raise unknown("parameter", name, list(PARAMETERS))
        chat.parameters.pop(name, None)
        return f"{name} is the model's own again."
    chat.parameters[name] = parse(name, text.strip())
    return f"{name} = {json.dumps(chat.parameters[name])}"


def _show(chat: Chat, argument: str) -> str:
    settings = {"model": f"{chat.model} at {chat.endpoint.where}", "system": chat.conversation.system or "-"}
    settings |= {name: json.dumps(value) for name, value in chat.parameters.items()}
    lines = [f"{name:<12} {value}" for name, value in settings.items()]
    for number, exchange in enumerate(chat.conversation.exchanges, 1):
        lines += [f"{'' if place else number:>3}  {_who(message)}" for place, message in enumerate(exchange)]
    if chat.images:
        lines.append(f"{len(chat.images)} image(s) go with the next message")
    return "\n".join(lines)


def _model(chat: Chat, argument: str) -> str:
    models = chat.endpoint.models()
    if not argument:
        return "\n".join(f"{'*' if name == chat.model else ' '} {name}" for name in models)
    if argument not in models:
        raise unknown("model", argument, models)
    chat.model = argument
    return f"{argument} answers from now on."


def _image(chat: Chat, argument: str) -> str:
    if not argument:
        chat.images = []
        return "No picture goes with the next message."
    path = _path(argument, "/image")
    chat.images.append(image_part(path))
    return f"{path} goes with the next message."


def _stats(chat: Chat, argument: str) -> str:
    return str(chat.statistics)


def _exit(chat: Chat, argument: str) -> NoReturn:
    raise Leave


COMMANDS: Final[dict[str, Command]] = {
    "/help": Command("", "this list", _help),
    "/reset": Command("", "begin a new conversation", _reset),
    "/undo": Command("", "remove the last exchange", _undo),
    "/regenerate": Command("", "have the last message answered anew", _regenerate),
    "/remove": Command("N", "remove exchange N, as /show numbers them", _remove),
    "/save": Command("FILE", "save the conversation, as the JSON of a chat request", _save, "file"),
    "/load": Command("FILE", "go on with a saved conversation, or one of FastChat's", _load, "file"),
    "/system": Command("TEXT", "set the system message; without text there is none", _system),
    "/set": Command("NAME VALUE", "set a parameter; without value as the model has it", _set, "parameter"),
    "/show": Command("", "settings and conversation", _show),
    "/model": Command("NAME", "talk with another model; without name list them", _model, "model"),
    "/image": Command("FILE", "send a picture with the next message; without name none", _image, "file"),
    "/stats": Command("", "tokens and speed, of the last answer and in all", _stats),
    "/exit": Command("", "leave", _exit),
}


def image_part(path: Path) -> dict[str, Any]:
    """The part of a message that holds a picture. Raises OSError, MeshError."""
    kind, _ = mimetypes.guess_type(path.name)
    if kind is None or not kind.startswith("image/"):
        raise invalid("image", f"{path} is no picture by its name, such as x.png or x.jpg")
    encoded = base64.b64encode(path.read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{encoded}"}}


def _path(argument: str, command: str) -> Path:
    if not argument:
        raise invalid("file", f"{command} takes the name of a file")
    return Path(argument).expanduser()


def _who(message: dict[str, Any]) -> str:
    return f"{message['role']}: {_short(text_of(message))}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"
