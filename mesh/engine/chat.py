"""Rendering conversations by a model's own chat template, in the sandbox of transformers."""

from __future__ import annotations

import inspect
import json
import re
import tempfile
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from mesh.dialects import AUTO, Dialect, choose
from mesh.engine import tool_prompt
from mesh.engine.base import Chat, Image, Message, Request, Tool
from mesh.engine.text import Tokenizer
from mesh.errors import MeshError, invalid, unsupported
from mesh.templates.choice import Stops

NO_STOPS: Final = Stops()
_PROBE: Final = "qzx probe qzx"


class ChatRenderer:
    """Turns a Chat into the text and the token ids that the model was trained on."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str | None = None,
        *,
        stops: Stops = NO_STOPS,
        allow_others: bool = False,
        tool_parser: str = AUTO,
        reasoning_parser: str = AUTO,
    ) -> None:
        """`template` is jinja text that overrides the tokenizer's own, and `stops` the ends of answers that it implies;
        `allow_others` takes templates of requests too. The parsers are names of mesh.dialects.

        The sandbox keeps a template from the worker's files and objects, not from its time and memory: nested loops
        over `range`, or `"a" * 10**10`, would hang or end it.
        """
        self._tokenizer = tokenizer
        self._hf = tokenizer.hf
        self._override = template
        self._stops = stops
        self._allow_others = allow_others
        self._parsers = tool_parser, reasoning_parser
        self._reserved = {"messages", *inspect.signature(self._hf.apply_chat_template).parameters} - {"documents"}
        # Bounded, because a request may bring a template of its own.
        self._takes_parts = lru_cache(maxsize=32)(self._probe_parts)

    def with_template(self, template: str) -> ChatRenderer:
        """The same with another template."""
        tools, reasoning = self._parsers
        return ChatRenderer(
            self._tokenizer,
            template,
            allow_others=self._allow_others,
            tool_parser=tools,
            reasoning_parser=reasoning,
        )

    @property
    def has_template(self) -> bool:
        """Whether chats without a template of their own can be rendered (capability `chat`)."""
        return bool(self.template)

    @property
    def template(self) -> object:
        """What renders chats without a template of their own: jinja text, or several by name; None without."""
        return self._override or self._hf.chat_template

    def files(self) -> dict[str, bytes]:
        """The tokenizer with this template, as files by name; see Engine.tokenizer_files. Blocks."""
        with tempfile.TemporaryDirectory(prefix="mesh-tokenizer-") as folder:
            self._hf.save_pretrained(folder)
            files = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}
        if "tokenizer.json" not in files:
            raise unsupported("model", "the model's tokenizer cannot be handed over: it is none of the fast ones")
        if isinstance(self.template, str):
            files["chat_template.jinja"] = self.template.encode()
        return files

    @property
    def facts(self) -> object:
        """All that makes texts of answers differ between renderers of one tokenizer, for the fingerprint."""
        return self.template if self._parsers == (AUTO, AUTO) else [self.template, *self._parsers]

    @property
    def dialect(self) -> Dialect:
        """How answers mark calls and reasoning."""
        try:
            return self._dialect(self._template(None, [{}]))
        except MeshError:
            return choose("", *self._parsers)

    def _dialect(self, template: str) -> Dialect:
        """That of a template; one that presents no tools is given them in words, in a dialect of ours."""
        found = choose(template, *self._parsers)
        return found if found.tools or _mentions_tools(template) else replace(found, tools=tool_prompt.DIALECT)

    @property
    def supports_tools(self) -> bool:
        """Whether chats may have tools (capability `tools`)."""
        try:
            return self._presents_tools(self._template(None, [{}]))
        except MeshError:
            return False

    def _presents_tools(self, template: str) -> bool:
        return _mentions_tools(template) or self._dialect(template).tools == tool_prompt.DIALECT

    def render(self, chat: Chat) -> list[int]:
        """Token ids of `text(chat)`: the template has written all special tokens itself, none is added.

        Raises unsupported (messages) for images, whose tokens are more than their text.
        """
        if chat.has_images:
            raise unsupported("messages", "'messages' holds an image: the model takes text only")
        return self._tokenizer.encode(self.text(chat), add_special_tokens=False, param="messages")

    def stops(self, chat: Chat) -> Stops:
        """What ends an answer to this conversation; nothing is known of a template that the request brings."""
        return NO_STOPS if chat.chat_template else self._stops

    def text(self, chat: Chat) -> str:
        """The rendered conversation.

        Raises invalid_request (messages, template_arguments, chat_template) or unsupported
        (messages, tools, chat_template).
        """
        tools = [_tool(tool) for tool in chat.tools] or None
        template = self._template(chat.chat_template, tools)
        if tools and not self._presents_tools(template):
            raise unsupported("tools", "'tools' cannot be used: the model's chat template does not present tools")
        self._check(chat)
        if not tools or _mentions_tools(template):
            return self._rendered(chat, template, tools)
        try:
            text = self._rendered(tool_prompt.in_words(chat, system=True), template, None)
            if tool_prompt.tool_prompt(chat.tools) in text:
                return text
        except MeshError:
            pass  # it takes no system message; what else it refuses, it refuses again
        return self._rendered(tool_prompt.in_words(chat, system=False), template, None)

    def _rendered(self, chat: Chat, template: str, tools: list[dict[str, Any]] | None) -> str:
        parts = self._takes_parts(template)
        messages = [_message(message, parts) for message in chat.messages]
        try:
            return self._apply(messages, template, chat, tools)
        except Exception as error:
            # Jinja's own errors, the template's raise_exception, and whatever Python raises for a value that the
            # template did not expect: all of them are said by the template about this conversation.
            raise _refusal(error, chat) from error

    def _apply(
        self, messages: list[dict[str, Any]], template: str, chat: Chat, tools: list[dict[str, Any]] | None
    ) -> str:
        variables = _variables(chat, template)
        return self._hf.apply_chat_template(
            messages,
            tools=tools,
            chat_template=template,
            add_generation_prompt=chat.add_generation_prompt,
            continue_final_message=chat.continue_final_message,
            tokenize=False,
            **variables,
        )

    def _template(self, own: str | None, tools: list[dict[str, Any]] | None) -> str:
        if own and not self._allow_others:
            raise unsupported(
                "chat_template", "'chat_template' cannot be used: the worker runs without --allow-chat-templates"
            )
        given = own or self._override
        if given:
            return given
        if not self._hf.chat_template:
            raise unsupported(
                "messages",
                "'messages' cannot be used: the model has no chat template; use /v1/completions, or start the worker "
                "with --chat-template NAME (`mesh templates` lists the names) or --chat-template FILE",
            )
        try:
            return self._hf.get_chat_template(None, tools)
        except ValueError as error:  # several templates, none of them the default
            raise unsupported("messages", f"'messages' cannot be used: {_one_line(error)}") from error

    def _check(self, chat: Chat) -> None:
        if not chat.messages:
            raise invalid("messages", "'messages' must hold at least one message")
        if chat.continue_final_message and chat.add_generation_prompt:
            raise invalid("continue_final_message", "'continue_final_message' excludes 'add_generation_prompt'")
        for name in ("template_arguments", "template_hints"):
            if taken := sorted(self._reserved.intersection(getattr(chat, name))):
                raise invalid(name, f"'{name}' must not set '{taken[0]}'")

    def _probe_parts(self, template: str) -> bool:
        """Whether the template shows a message's text only when the content is a list of parts.

        Found by rendering: most templates take strings, many take both, some vision templates take lists alone.
        """

        def shows(content: Any) -> bool:
            try:
                text = self._apply([{"role": "user", "content": content}], template, Chat(messages=()), tools=None)
            except Exception:  # not what this template wants, whatever its reason
                return False
            return _PROBE in text and "'type'" not in text

        return not shows(_PROBE) and shows([{"type": "text", "text": _PROBE}])


def with_template_stops(request: Request, chat: ChatRenderer) -> tuple[Request, tuple[str, ...]]:
    """The request with the tokens that end answers by the chat template, and the strings that do."""
    sampling = request.sampling
    if not isinstance(request.prompt, Chat) or sampling.ignore_eos:
        return request, ()
    stops = chat.stops(request.prompt)
    ids = tuple(dict.fromkeys((*sampling.stop_token_ids, *stops.token_ids)))
    request = replace(request, sampling=replace(sampling, stop_token_ids=ids))
    # A grammar says by itself where its text ends, and its strings may hold anything.
    return request, () if request.constraint else stops.strings


def _refusal(error: Exception, chat: Chat) -> MeshError:
    from jinja2 import TemplateSyntaxError

    if isinstance(error, MeshError):
        return error
    reason = _one_line(error)
    if chat.chat_template and isinstance(error, TemplateSyntaxError):
        return invalid("chat_template", f"'chat_template' is not a valid template: {reason}")
    return invalid("messages", f"the chat template refuses these 'messages': {reason}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


def _mentions_tools(template: str) -> bool:
    return _mentions(template, "tools")


def _mentions(template: str, variable: str) -> bool:
    return re.search(rf"\b{re.escape(variable)}\b", template) is not None


# Variables by which templates switch reasoning on and off.
_SWITCHES: Final = ("enable_thinking", "thinking")


def _variables(chat: Chat, template: str) -> dict[str, Any]:
    """The variables that a chat gives its template; raises unsupported for those that it does not read."""
    for name in chat.template_arguments:
        if not _mentions(template, name):
            text = f"'template_arguments' (chat_template_kwargs) has '{name}', which the chat template does not read"
            raise unsupported("template_arguments", text)
    hints = {name: value for name, value in chat.template_hints.items() if _mentions(template, name)}
    arguments, effort = {**hints, **chat.template_arguments}, chat.reasoning_effort
    if effort is None:
        return arguments
    off = effort in ("none", "minimal")
    switches = [name for name in _SWITCHES if _mentions(template, name)]
    graded = _mentions(template, "reasoning_effort")
    if not switches and not graded:
        text = f"'reasoning_effort' ({effort}) cannot be used: the chat template reads no such setting"
        raise unsupported("reasoning_effort", text)
    if graded and not (switches and off):
        arguments["reasoning_effort"] = effort
    return {**dict.fromkeys(switches, not off), **arguments}


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.parameters),
    }
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _message(message: Message, as_parts: bool) -> dict[str, Any]:
    """The plain dict that templates are written for; absent fields are absent keys, as templates test for them."""
    result: dict[str, Any] = {"role": message.role}
    if message.parts is not None:
        result["content"] = _content(message.parts, as_parts)
    elif not message.tool_calls:
        result["content"] = [] if as_parts else ""
    if message.name is not None:
        result["name"] = message.name
    if message.tool_call_id is not None:
        result["tool_call_id"] = message.tool_call_id
    if message.reasoning is not None:
        # Families differ in the key; each reads its own.
        result["reasoning_content"] = result["reasoning"] = message.reasoning
    if message.tool_calls:
        result["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call.arguments)},
            }
            for call in message.tool_calls
        ]
    return result


def _content(parts: tuple[str | Image, ...], as_parts: bool) -> str | list[dict[str, str]]:
    """A text; or parts, as all templates that show images want them in messages with images, and some everywhere."""
    texts = [part for part in parts if isinstance(part, str)]
    if not as_parts and len(texts) == len(parts):
        return "\n".join(texts)
    return [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in parts]


def _arguments(text: str) -> dict[str, Any]:
    """Templates print arguments with their own JSON filter, so they want the object, not its text."""
    try:
        value = json.loads(text or "{}")
    except RecursionError:
        raise invalid("messages", "'messages' holds a tool call whose arguments are nested too deeply") from None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise invalid("messages", "'messages' holds a tool call whose arguments are not a JSON object")
    return value  # pyright: ignore[reportUnknownVariableType]
