"""The items of the Responses API: what was said, called and returned. As clients send them, and as they are kept."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from mesh.errors import MeshError, invalid, unsupported

_KINDS: Final = ("message", "function_call", "function_call_output", "reasoning", "item_reference")
_ROLES: Final = ("user", "assistant", "system", "developer")
_SAID: Final = ("input_text", "input_image")
_ANSWERED: Final = ("output_text", "refusal", "input_text")
MAX_ITEMS: Final = 10_000
MAX_ID: Final = 128  # characters, for which the store has room


class Part(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A piece of an item's content. Kinds that are not served are known in order to be refused."""

    type: str
    text: str | None = None
    image_url: str | None = None
    detail: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None
    file_id: str | None = None
    file_data: Any = None
    file_url: Any = None
    filename: Any = None
    input_audio: Any = None
    prompt_cache_breakpoint: Any = None
    parsed: Any = None


class Item(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One item. Without a type it is a message."""

    type: str | None = None
    id: str | None = None
    status: str | None = None
    role: str | None = None
    phase: str | None = None
    content: str | list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | None = None
    output: str | list[Part] | None = None
    summary: list[Part] | None = None
    encrypted_content: str | None = None
    # What OpenAI's client adds to our own answers, and what items of other kinds have.
    parsed_arguments: Any = None
    created_by: Any = None
    caller: Any = None
    input: Any = None
    action: Any = None

    @property
    def kind(self) -> str:
        """Its type."""
        return self.type or "message"

    @property
    def reasoning(self) -> str:
        """The text of a reasoning item, from whichever of its fields holds most."""
        own = self.content if isinstance(self.content, list) else []
        if own:
            return "".join(part.text or "" for part in own)
        if self.encrypted_content:
            return unsealed(self.encrypted_content)
        return "\n\n".join(part.text or "" for part in self.summary or ())


def sealed(text: str) -> str:
    """What goes as `encrypted_content`: the text, which clients have in the clear as well, and send back as it is."""
    return base64.b64encode(text.encode()).decode()


def unsealed(text: str) -> str:
    """The text again; nothing of what another server has sealed."""
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


def check_items(items: Sequence[Item], param: str = "input") -> None:
    """Raise MeshError for what is no item, or none that can be honoured."""
    if not 1 <= len(items) <= MAX_ITEMS:
        raise invalid(param, f"'{param}' must hold 1 to {MAX_ITEMS} items, not {len(items)}")
    for index, item in enumerate(items):
        where = f"{param}[{index}]"
        if (length := len(item.id or "")) > MAX_ID:
            raise invalid(f"{where}.id", f"'{where}.id' must have at most {MAX_ID} characters, not {length}")
        match item.kind:
            case "message":
                _check_message(where, item)
            case "function_call":
                _require(where, item, "call_id", "name", "arguments")
            case "function_call_output":
                _require(where, item, "call_id", "output")
                if isinstance(item.output, list):
                    _check_parts(f"{where}.output", item.output, _SAID)
            case "reasoning":
                _check_reasoning(where, item)
            case "item_reference":
                _require(where, item, "id")
            case other:
                kinds = ", ".join(_KINDS)
                raise unsupported(f"{where}.type", f"'{where}.type' must be one of {kinds}, not '{other[:64]}'")


def check_ids(items: Sequence[Item], param: str = "input", *, before: Iterable[Item] = ()) -> None:
    """Raise MeshError for an item with the id of another one, also of one before: pages of a list go by ids."""
    known = {item.id for item in before}
    for index, item in enumerate(items):
        if item.id and item.id in known:
            raise id_taken(f"{param}[{index}].id", item.id)
        known.add(item.id)


def id_taken(param: str, item_id: str) -> MeshError:
    """An item has the id of another one."""
    return invalid(param, f"'{param}' is '{item_id[:100]}', as another item's: each item may come once")


def _check_message(where: str, item: Item) -> None:
    if item.role not in _ROLES:
        roles = ", ".join(_ROLES)
        raise invalid(f"{where}.role", f"'{where}.role' must be one of {roles}, not '{(item.role or '')[:64]}'")
    _require(where, item, "content")
    if isinstance(item.content, list):
        _check_parts(f"{where}.content", item.content, _ANSWERED if item.role == "assistant" else _SAID)


def _check_reasoning(where: str, item: Item) -> None:
    if isinstance(item.content, str):
        raise invalid(f"{where}.content", f"'{where}.content' must be a list in an item of type reasoning")
    _check_parts(f"{where}.summary", item.summary or (), ("summary_text",))
    _check_parts(f"{where}.content", item.content or (), ("reasoning_text",))


def _check_parts(where: str, parts: Sequence[Part], kinds: Sequence[str]) -> None:
    for index, part in enumerate(parts):
        if part.type not in kinds:
            param = f"{where}[{index}].type"
            raise unsupported(param, f"'{param}' must be one of {', '.join(kinds)}, not '{part.type[:64]}'")
        if part.file_id is not None:
            raise unsupported(f"{where}[{index}].file_id", f"'{where}[{index}].file_id' is not supported")
        field = {"input_image": "image_url", "refusal": "refusal"}.get(part.type, "text")
        if getattr(part, field) is None:
            raise invalid(f"{where}[{index}].{field}", f"'{where}[{index}].{field}' is required")


def _require(where: str, item: Item, *names: str) -> None:
    for name in names:
        if getattr(item, name) is None:
            raise invalid(f"{where}.{name}", f"'{where}.{name}' is required")


_PREFIXES: Final = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}


def kept(item: Item, new_id: str) -> dict[str, Any]:
    """An item as it is kept and listed: with an id (`new_id` behind the prefix of its kind, if it has none), a status,
    and its content as parts."""
    found: dict[str, Any] = {"id": item.id or f"{_PREFIXES[item.kind]}_{new_id}", "type": item.kind}
    if item.kind != "reasoning":
        found["status"] = item.status or "completed"
    found |= {name: value for name, value in _builtins(item).items() if name not in _LEFT_OUT}
    if item.kind == "message":
        kind = "output_text" if item.role == "assistant" else "input_text"
        parts = [Part(kind, item.content)] if isinstance(item.content, str) else item.content or []
        found["content"] = [_kept_part(part) for part in parts]
    elif item.kind == "reasoning":
        found.setdefault("summary", [])
    return found


_LEFT_OUT: Final = frozenset(("id", "type", "status", "parsed_arguments", "created_by", "input", "action"))


def _kept_part(part: Part) -> dict[str, Any]:
    found = _builtins(part)
    found.pop("parsed", None)
    if part.type == "output_text":
        found.setdefault("annotations", [])
        found.setdefault("logprobs", [])
    elif part.type == "input_image":
        found.setdefault("detail", "auto")
    return found


def _builtins(value: msgspec.Struct) -> dict[str, Any]:
    return {name: each for name, each in msgspec.to_builtins(value).items() if each is not None}
