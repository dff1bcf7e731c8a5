"""`mesh chat`: which of its forms is wanted, and whom it talks with."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, cast

from mesh.cli.answering.endpoint import Endpoint
from mesh.cli.chat.chat import Chat
from mesh.cli.chat.commands import KEYS, Leave, run
from mesh.cli.chat.config import ChatConfig
from mesh.cli.chat.conversation import Conversation
from mesh.cli.chat.display import Display, ProgrammaticDisplay, SimpleDisplay
from mesh.cli.chat.keyboard import no_echo
from mesh.cli.chat.parameters import Value
from mesh.cli.chat.parameters import parse as parse_parameter
from mesh.cli.client import GatewayClient
from mesh.config import ConfigError, fail, parse
from mesh.errors import MeshError

_PROG = "mesh chat"
_INTERRUPTED = 128 + signal.SIGINT


def main(argv: Sequence[str]) -> int:
    """Run `mesh chat`; returns the exit code: 1 if an answer failed, 130 if the only one was stopped."""
    try:
        config = parse(ChatConfig, prog=_PROG, env_prefix="MESH_CHAT_", argv=argv)
        parameters = _parameters(config)
        endpoint = _endpoint(config)
    except ConfigError as error:
        fail(_PROG, str(error))
    except MeshError as error:
        fail(_PROG, error.message)
    except KeyboardInterrupt:  # during the load
        return _INTERRUPTED
    with contextlib.closing(endpoint):
        model, display = _model(config, endpoint), _display(config.style)
        chat = Chat(endpoint, display, model, Conversation(config.system), parameters, history=config.history)
        if config.message:
            return _answer_once(chat, _message(config.message))
        if sys.stdin.isatty():
            return _converse(chat)
        return _answer_lines(chat, structured=config.style == "programmatic")


def _endpoint(config: ChatConfig) -> Endpoint:
    """The gateway, or a model in this process, loaded. Raises ConfigError and MeshError."""
    if not config.model_path:
        return GatewayClient(config.url, config.api_key)
    from mesh.cli.answering.local import local_endpoint
    from mesh.worker.engines import make_engine

    if sys.stderr.isatty():
        print(f"loading {', '.join(config.model_path)} …", file=sys.stderr, flush=True)
    return local_endpoint(make_engine(config.worker()))


def _parameters(config: ChatConfig) -> dict[str, Value]:
    pairs = [given.partition("=") for given in config.set]
    parameters = {name: parse_parameter(name, text) for name, _, text in pairs}
    for name in ("temperature", "max_tokens"):
        if getattr(config, name) is not None:
            parameters[name] = getattr(config, name)
    return parameters


def _model(config: ChatConfig, endpoint: Endpoint) -> str:
    """The model that is wanted, if it is served, or else the end."""
    try:
        models = endpoint.models()
    except ConnectionError as error:
        fail(_PROG, f"no gateway answers at {config.url} ({error}); start one with `mesh up`")
    except MeshError as error:
        fail(_PROG, error.message)
    if config.model is None and not models:
        fail(_PROG, f"the gateway at {config.url} has no model yet: start a worker, or wait until it has loaded")
    if config.model is not None and config.model not in models:
        fail(_PROG, f"model '{config.model}' is not served; there are: {', '.join(models) or 'none'}")
    return config.model or models[0]


def _display(style: str) -> Display:
    if style == "programmatic":
        return ProgrammaticDisplay()
    plain = not sys.stdout.isatty() or os.environ.get("TERM") in ("dumb", "unknown")
    if style == "simple" or (style == "auto" and plain):
        return SimpleDisplay()
    from mesh.cli.chat.markdown import MarkdownDisplay  # takes a moment to import

    return MarkdownDisplay()


def _message(words: Sequence[str]) -> str:
    """The words as one message, with standard input where a - is."""
    groups = itertools.groupby(words, key=lambda word: word == "-")
    paragraphs = [sys.stdin.read().strip() if piped else " ".join(group) for piped, group in groups]
    # Python keeps bytes of an argument that are no text as lone surrogates.
    message = "\n\n".join(filter(None, paragraphs)).encode(errors="surrogateescape").decode(errors="replace")
    if not message:
        fail(_PROG, "there is no message: it is empty")
    return message


def _answer_once(chat: Chat, message: str) -> int:
    if chat.say(message):
        return 0
    return _INTERRUPTED if chat.stopped else 1


def _answer_lines(chat: Chat, *, structured: bool) -> int:
    """Answer or follow each line of standard input; 1 if that failed for one. `structured`: see _content."""
    done: list[bool] = []
    try:
        for line in sys.stdin:
            text = line.strip()
            if text.startswith("/"):
                done.append(run(chat, text))
            elif text:
                done.append(_say_line(chat, text, structured=structured))
    except Leave:
        pass
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0 if all(done) else 1


def _say_line(chat: Chat, line: str, *, structured: bool) -> bool:
    if not (structured and line.startswith("{")):
        return chat.say(line)
    try:
        given: Any = json.loads(line)
        return chat.say(cast("str", given["content"]))
    except (ValueError, KeyError) as error:
        chat.display.complain(f"a line that begins with {{ must be a JSON object with content: {error}")
        return False


def _converse(chat: Chat) -> int:
    from mesh.cli.chat.prompt import Prompt  # takes a moment to import

    if isinstance(chat.display, ProgrammaticDisplay):
        return _answer_lines(chat, structured=True)  # a program at a terminal types no prompts away
    prompt = Prompt(lambda: _names(chat.endpoint), lambda: _status(chat))
    chat.display.say(f"{chat.model} at {chat.endpoint.where}\n{KEYS} /help lists commands.")
    while True:
        try:
            text = prompt.ask().strip()
            with no_echo():
                if text.startswith("/"):
                    run(chat, text)
                elif text:
                    chat.say(text)
        except KeyboardInterrupt:
            chat.display.say(KEYS)
        except (EOFError, Leave):
            return 0


def _names(endpoint: Endpoint) -> list[str]:
    """Names to complete; none where they cannot be had."""
    try:
        return endpoint.models()
    except (MeshError, OSError):
        return []


def _status(chat: Chat) -> str:
    settings = [f"{name} {json.dumps(value)}" for name, value in chat.parameters.items()]
    images = [f"{len(chat.images)} image(s)"] if chat.images else []
    return " · ".join(part for part in [chat.model, *settings, *images, chat.statistics.short] if part)
