"""`mesh chat`: a conversation in the terminal with a model behind a gateway."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from mesh.cli.client import GatewayClient
from mesh.config import fail, option, parse
from mesh.errors import MeshError

_PROG = "mesh chat"
_HELP = "Enter sends. Ctrl-C stops an answer, /reset starts over, /quit or Ctrl-D leaves."


@dataclass(frozen=True)
class ChatConfig:
    """Talk with a model in the terminal, or send it one message per line of standard input."""

    url: str = option("http://127.0.0.1:8000", "Where the gateway is.")
    model: str | None = option(None, "Which model. Default: the first one that the gateway lists.")
    system: str | None = option(None, "System message at the head of the conversation.")
    api_key: str | None = option(None, "Key for the gateway; better given by the environment.", secret=True)


class Conversation:
    """The messages so far, and how the next answer comes to them."""

    def __init__(self, client: GatewayClient, model: str, system: str | None) -> None:
        self.client = client
        self.model = model
        self._system = system
        self.messages: list[dict[str, str]] = []
        self.reset()

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages = [{"role": "system", "content": self._system}] if self._system else []

    def say(self, text: str) -> bool:
        """Send a message and print the answer as it comes; returns whether one came.

        What came before Ctrl-C stays in the conversation; an exchange without any answer is forgotten.
        """
        self.messages.append({"role": "user", "content": text})
        pieces: list[str] = []
        try:
            with contextlib.closing(self._answer()) as answer:
                for piece in answer:
                    pieces.append(piece)
                    print(piece, end="", flush=True)
            problem = None
        except KeyboardInterrupt:
            problem = "stopped"
        except (MeshError, OSError) as error:
            problem = str(error)
        print(flush=True)
        if problem:
            print(f"[{problem}]", file=sys.stderr, flush=True)
        if pieces:
            self.messages.append({"role": "assistant", "content": "".join(pieces)})
        else:
            self.messages.pop()
        return problem is None

    def _answer(self) -> Generator[str]:
        return self.client.stream_chat({"model": self.model, "messages": self.messages})


def main(argv: Sequence[str]) -> int:
    """Run `mesh chat`; returns the exit code."""
    config = parse(ChatConfig, prog=_PROG, env_prefix="MESH_CHAT_", argv=argv)
    conversation = _connect(config)
    if sys.stdin.isatty():
        _converse(conversation)
        return 0
    return _answer_lines(conversation)


def _connect(config: ChatConfig) -> Conversation:
    try:
        client = GatewayClient(config.url, config.api_key)
        models = client.models()
    except ConnectionError as error:
        fail(_PROG, f"no gateway answers at {config.url} ({error}); start one with `mesh up`")
    except MeshError as error:
        fail(_PROG, error.message)
    if config.model is None and not models:
        fail(_PROG, f"the gateway at {config.url} has no model yet: start a worker, or wait until it has loaded")
    if config.model is not None and config.model not in models:
        fail(_PROG, f"model '{config.model}' is not served; there are: {', '.join(models) or 'none'}")
    return Conversation(client, config.model or models[0], config.system)


def _converse(conversation: Conversation) -> None:
    with contextlib.suppress(ImportError):
        importlib.import_module("readline")  # gives input() its history and line editing
    print(f"{conversation.model} at {conversation.client.url}. {_HELP}")
    while True:
        try:
            text = input("\n> ").strip()
        except KeyboardInterrupt:
            print(f"\n{_HELP}")
            continue
        except EOFError:
            print()
            return
        if text == "/quit":
            return
        _turn(conversation, text)


def _turn(conversation: Conversation, text: str) -> None:
    if text == "/reset":
        conversation.reset()
        print("A new conversation.")
    elif text.startswith("/"):
        print(_HELP)
    elif text:
        conversation.say(text)


def _answer_lines(conversation: Conversation) -> int:
    """Answer each line of standard input; 1 if an answer failed."""
    answered = [conversation.say(text) for line in sys.stdin if (text := line.strip())]
    return 0 if all(answered) else 1
