"""Conversations, whatever the shape of the record they come from.

A record is a JSON object in one of these shapes, told apart by its keys, each one by itself:

    messages, conversation     OpenAI's: [{"role": "user", "content": ...}, ...]
    conversations              ShareGPT's and FastChat's: [{"from": "human", "value": ...}, ...]
    prompt, chosen, rejected   a preference, each of the three messages or a text; the prompt may also be left out
                               and repeated in the two answers
    prompt, completion         an answer to one prompt, each of them messages or a text
    instruction, input, output Alpaca's; `history` is a list of earlier pairs

What else a record says (a model's name, tools, a language) stays with the conversation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

_ROLES: Final[Mapping[str, str]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "tool": "tool",
}
_FASTCHAT: Final[Mapping[str, str]] = {"user": "human", "assistant": "gpt"}


REASONING: Final = ("reasoning_content", "reasoning")
"""What families call the reasoning of a message."""


class BadConversation(ValueError):
    """A record that is no conversation; the message names the field and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `extra` is what else its record says: calls of tools, a name."""

    role: str
    """`system`, `user`, `assistant` or `tool`."""
    content: str
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def text(self) -> str:
        """All that it says: its reasoning, its content, and the names and arguments of its calls."""
        return "\n".join(filter(None, (self.reasoning, self.content, *map(_call_text, self.calls))))

    @property
    def reasoning(self) -> str:
        """What the model thought before it answered; families differ in the key."""
        return next((text for key in REASONING if isinstance(text := self.extra.get(key), str) and text), "")

    @property
    def calls(self) -> list[dict[str, Any]]:
        """Calls of tools, as OpenAI's API has them."""
        return self.extra.get("tool_calls") or []


@dataclass(frozen=True, slots=True)
class Conversation:
    """At least one message, oldest first. With `rejected` it is a preference, and ends with the better answer."""

    messages: tuple[Message, ...]
    id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rejected: tuple[Message, ...] = ()
    """The worse answer, in place of the messages from `prompt_length` on."""
    prompt_length: int = 0

    @property
    def everything(self) -> tuple[Message, ...]:
        """All messages, the rejected ones last."""
        return self.messages + self.rejected

    @property
    def text(self) -> str:
        """All that is said, a blank line between the messages."""
        return "\n\n".join(message.text for message in self.everything)

    def map(self, change: Callable[[Message], Message]) -> Conversation:
        """The same conversation with each message changed."""
        messages, rejected = (tuple(map(change, part)) for part in (self.messages, self.rejected))
        return replace(self, messages=messages, rejected=rejected)

    def exchanges(self) -> Iterator[tuple[Message, ...]]:
        """The messages after the system's, cut before each of the user's: nothing is left out."""
        started: list[Message] = []
        for message in self.messages:
            if message.role == "system" and not started:
                continue
            if message.role == "user" and started:
                yield tuple(started)
                started = []
            started.append(message)
        if started:
            yield tuple(started)

    def system(self) -> tuple[Message, ...]:
        """The system's messages at the beginning; `exchanges` are all others."""
        for place, message in enumerate(self.messages):
            if message.role != "system":
                return self.messages[:place]
        return self.messages


def conversation(record: object) -> Conversation:
    """The conversation of a record in any of the shapes above. Raises BadConversation."""
    if not isinstance(record, Mapping):
        raise BadConversation(f"a record must be an object, not {_kind(record)}")
    rest: dict[str, Any] = dict(cast("Mapping[str, Any]", record))
    given = rest.pop("id", None)
    for keys, read in _SHAPES:
        if all(key in rest for key in keys):
            found = read(rest)
            break
    else:
        raise BadConversation(f"no known shape: the keys are {', '.join(map(repr, rest)) or 'missing'}")
    if not found.messages:
        raise BadConversation("no messages")
    return replace(found, id=None if given is None else str(given), extra=rest)


def openai_record(conversation: Conversation) -> dict[str, Any]:
    """`messages` as OpenAI's API takes them; `prompt`, `chosen` and `rejected` for a preference."""
    if not conversation.rejected:
        return _record(conversation, messages=_openai(conversation.messages))
    return _record(
        conversation,
        prompt=_openai(conversation.messages[: conversation.prompt_length]),
        chosen=_openai(conversation.messages[conversation.prompt_length :]),
        rejected=_openai(conversation.rejected),
    )


def fastchat_record(conversation: Conversation) -> dict[str, Any]:
    """`conversations` as FastChat and ShareGPT have them. Raises BadConversation for a preference, which has none."""
    if conversation.rejected:
        raise BadConversation("a preference has no shape in FastChat's format")
    turns = [
        {"from": _FASTCHAT.get(message.role, message.role), "value": message.content, **message.extra}
        for message in conversation.messages
    ]
    return _record(conversation, conversations=turns)


def _record(conversation: Conversation, **parts: list[dict[str, Any]]) -> dict[str, Any]:
    named = {} if conversation.id is None else {"id": conversation.id}
    return {**named, **parts, **conversation.extra}


def _openai(messages: Iterable[Message]) -> list[dict[str, Any]]:
    return [{"role": message.role, "content": message.content, **message.extra} for message in messages]


# Each reader takes its own keys out of the record; what is left is the conversation's `extra`.


def _from_messages(rest: dict[str, Any]) -> Conversation:
    key = "messages" if "messages" in rest else "conversation"
    return Conversation(_messages(key, rest.pop(key)))


def _from_sharegpt(rest: dict[str, Any]) -> Conversation:
    messages = _messages("conversations", rest.pop("conversations"))
    if not isinstance(rest.get("system"), str):
        return Conversation(messages)
    system = rest.pop("system")
    if messages and messages[0].role == "system":
        raise BadConversation("system: given twice, as a field and as the first message")
    return Conversation((Message("system", system), *messages) if system else messages)


def _from_preference(rest: dict[str, Any]) -> Conversation:
    chosen = _messages("chosen", rest.pop("chosen"), "assistant")
    rejected = _messages("rejected", rest.pop("rejected"), "assistant")
    if "prompt" in rest:
        prompt = _messages("prompt", rest.pop("prompt"), "user")
    else:
        prompt = _shared(chosen, rejected)
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    for name, part in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
        if not part:
            raise BadConversation(f"{name}: no messages")
    return Conversation(prompt + chosen, rejected=rejected, prompt_length=len(prompt))


def _shared(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> tuple[Message, ...]:
    """What both begin with, up to the last question: equal answers are still answers."""
    length = 0
    for place, (one, other) in enumerate(zip(chosen, rejected, strict=False)):
        if one != other:
            break
        if one.role != "assistant":
            length = place + 1
    return chosen[:length]


def _from_completion(rest: dict[str, Any]) -> Conversation:
    prompt = _messages("prompt", rest.pop("prompt"), "user")
    return Conversation(prompt + _messages("completion", rest.pop("completion"), "assistant"))


def _from_alpaca(rest: dict[str, Any]) -> Conversation:
    instruction, output = _text("instruction", rest.pop("instruction")), _text("output", rest.pop("output"))
    context = _text("input", rest.pop("input", None) or "")
    messages: list[Message] = []
    if system := _text("system", rest.pop("system", None) or ""):
        messages.append(Message("system", system))
    for question, answer in _pairs(rest.pop("history", None) or []):
        messages += [Message("user", question), Message("assistant", answer)]
    question = f"{instruction}\n\n{context}" if context else instruction
    return Conversation((*messages, Message("user", question), Message("assistant", output)))


_SHAPES: Final[tuple[tuple[tuple[str, ...], Callable[[dict[str, Any]], Conversation]], ...]] = (
    (("messages",), _from_messages),
    (("conversations",), _from_sharegpt),
    (("chosen", "rejected"), _from_preference),
    (("prompt", "completion"), _from_completion),
    (("instruction", "output"), _from_alpaca),
    (("conversation",), _from_messages),
)


def _pairs(history: object) -> Iterator[tuple[str, str]]:
    if not isinstance(history, list):
        raise BadConversation(f"history: must be a list of pairs, not {_kind(history)}")
    for place, pair in enumerate(cast("list[object]", history)):
        if not isinstance(pair, list) or len(cast("list[object]", pair)) != 2:
            raise BadConversation(f"history[{place}]: must be a question and an answer")
        question, answer = cast("list[object]", pair)
        yield _text(f"history[{place}][0]", question), _text(f"history[{place}][1]", answer)


def _messages(name: str, given: object, role: str | None = None) -> tuple[Message, ...]:
    """Messages of a list; where `role` is given, a text is one message of it."""
    if isinstance(given, str) and role is not None:
        return (Message(role, given),)
    if not isinstance(given, list):
        raise BadConversation(f"{name}: must be a list of messages, not {_kind(given)}")
    return tuple(_message(f"{name}[{place}]", item) for place, item in enumerate(cast("list[object]", given)))


def _message(name: str, given: object) -> Message:
    if not isinstance(given, Mapping):
        raise BadConversation(f"{name}: must be an object, not {_kind(given)}")
    rest: dict[str, Any] = dict(cast("Mapping[str, Any]", given))
    role_key, text_key = ("from", "value") if "from" in rest else ("role", "content")
    if role_key not in rest:
        raise BadConversation(f"{name}: neither 'role' nor 'from'")
    called = rest.pop(role_key)
    role = _ROLES.get(called.strip().lower()) if isinstance(called, str) else None
    if role is None:
        raise BadConversation(f"{name}.{role_key}: unknown role {called!r:.40}")
    _check_calls(f"{name}.tool_calls", rest.get("tool_calls"))
    return Message(role, _content(f"{name}.{text_key}", rest.pop(text_key, None), rest), rest)


def _check_calls(name: str, given: object) -> None:
    if given is None:
        return
    if not isinstance(given, list):
        raise BadConversation(f"{name}: must be a list of calls, not {_kind(given)}")
    for place, call in enumerate(cast("list[Any]", given)):
        if not isinstance(call, Mapping):
            raise BadConversation(f"{name}[{place}]: must be an object, not {_kind(call)}")
        function: object = cast("Mapping[str, Any]", call).get("function", {})
        if not isinstance(function, Mapping):
            raise BadConversation(f"{name}[{place}].function: must be an object, not {_kind(function)}")


def _content(name: str, given: object, rest: Mapping[str, Any]) -> str:
    if given is None and rest.get("tool_calls"):
        return ""
    if not isinstance(given, list):
        return _text(name, given)
    parts = cast("list[Any]", given)
    for place, part in enumerate(parts):
        if not isinstance(part, Mapping) or cast("Mapping[str, Any]", part).get("type") != "text":
            raise BadConversation(f"{name}[{place}]: only parts of type 'text' can be read")
    return "".join(_text(f"{name}[{place}].text", part.get("text")) for place, part in enumerate(parts))


def _text(name: str, given: object) -> str:
    if not isinstance(given, str):
        raise BadConversation(f"{name}: must be a text, not {_kind(given)}")
    return given


def _call_text(call: Mapping[str, Any]) -> str:
    function: Mapping[str, Any] = call.get("function", call)
    arguments = function.get("arguments") or ""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f"{function.get('name', '')} {text}".strip()


def _kind(given: object) -> str:
    """What JSON calls it."""
    match given:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case _:
            return "an object"
