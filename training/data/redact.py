"""`mesh data redact`: what tells who somebody is, or opens a door, as far as its form gives it away.

Names, addresses and whatever else only its meaning gives away stay; no list of patterns finds them.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, cast

from mesh.config import ConfigError, option
from training.conversations import Conversation, Message
from training.data.tool import Changed, Step, Tool

Replace = Callable[[str], str]
"""Called with what was found; returns what stands in its place."""

_EMAIL: Final = re.compile(r"(?<![\w.+-])[\w.+%-]{1,64}@(?:[\w-]{1,63}\.){1,8}[a-zA-Z]{2,24}(?![\w-])")
_IP: Final = re.compile(
    r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4})(?![\w:]|\.\d)"
)
_CARD: Final = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-]|\.\d)")
_IBAN: Final = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?!\w)")
_SECRET: Final = re.compile(
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----.*?-----END (?:[A-Z]+ )*PRIVATE KEY-----"
    r"|(?<!\w)(?:sk-[\w-]{20,}|gh[pousr]_\w{36,}|github_pat_\w{22,}|glpat-[\w-]{20,}|(?:AKIA|ASIA)[A-Z0-9]{16}"
    r"|AIza[\w-]{35}|xox[abprs]-[\w-]{10,}|hf_[a-zA-Z0-9]{30,}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,})(?!\w)",
    re.DOTALL,
)
_VALUE: Final = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*')
"""A text or a number within JSON."""
_ARGUMENTS: Final = "arguments"
_NAMES: Final = ("role", "type", "id", "tool_call_id", "name")
_DIGITS: Final = re.compile(r"(?:\d[^\d\n]{0,3}){6}\d")


def _emails(text: str, put: Replace, _: str) -> str:
    return _EMAIL.sub(lambda found: put(found[0]), text)


def _addresses(text: str, put: Replace, _: str) -> str:
    return _IP.sub(lambda found: put(found[0]) if _is_public_address(found[0]) else found[0], text)


def _is_public_address(text: str) -> bool:
    """Addresses of no one, as 127.0.0.1 and 192.168.1.1, are part of many answers."""
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def _cards(text: str, put: Replace, _: str) -> str:
    from stdnum import luhn

    def check(found: re.Match[str]) -> str:
        digits = re.sub(r"\D", "", found[0])
        return put(found[0]) if len(set(digits)) > 1 and luhn.is_valid(digits) else found[0]

    return _CARD.sub(check, text)


def _ibans(text: str, put: Replace, _: str) -> str:
    from stdnum import iban

    return _IBAN.sub(lambda found: put(found[0]) if iban.is_valid(found[0]) else found[0], text)


def _secrets(text: str, put: Replace, _: str) -> str:
    return _SECRET.sub(lambda found: put(found[0]), text)


def _phones(text: str, put: Replace, region: str) -> str:
    """Numbers that exist in the world's numbering plans; without a region, those with + and a country's code."""
    if not _DIGITS.search(text):
        return text
    import phonenumbers

    pieces: list[str] = []
    end = 0
    for found in phonenumbers.PhoneNumberMatcher(text, region or None):
        pieces += [text[end : found.start], put(found.raw_string)]
        end = found.end
    return "".join([*pieces, text[end:]])


KINDS: Final[Mapping[str, Callable[[str, Replace, str], str]]] = {
    "secret": _secrets,
    "email": _emails,
    "iban": _ibans,
    "card": _cards,
    "ip": _addresses,
    "phone": _phones,
}
"""By name, and in this order: the digits of an account are no phone number."""


@dataclass(frozen=True, kw_only=True)
class Redact(Tool):
    """Put [EMAIL], [PHONE], [CARD], [IBAN], [IP] and [SECRET] in place of what looks like one. Names stay."""

    kind: tuple[str, ...] = option(tuple(KINDS), f"Look for this: {', '.join(KINDS)}; may be repeated.")
    phone_region: str = option("", "Find phone numbers without a country's code, too, as dialled in it: US, DE.")

    def __post_init__(self) -> None:
        for name in self.kind:
            if name not in KINDS:
                raise ConfigError(f"--kind must be one of {', '.join(KINDS)}, not '{name}'")
        if self.phone_region:
            from phonenumbers import SUPPORTED_REGIONS

            if self.phone_region not in SUPPORTED_REGIONS:
                raise ConfigError(f"--phone-region must be a country as US or DE, not '{self.phone_region}'")

    def step(self) -> Step:
        return self._redact

    def _redact(self, conversation: Conversation) -> Iterator[Conversation | Changed]:
        found: Counter[str] = Counter()

        def put(name: str, _: str) -> str:
            found[name] += 1
            return f"[{name.upper()}]"

        def change(text: str) -> str:
            for name in (name for name in KINDS if name in self.kind):
                text = KINDS[name](text, partial(put, name), self.phone_region)
            return text

        def redacted(message: Message) -> Message:
            extra = {key: _redacted(key, value, change) for key, value in message.extra.items()}
            return replace(message, content=_within(message.content, change), extra=extra)

        changed = conversation.map(redacted)
        for name, count in found.items():
            yield Changed(f"{name} redacted", count)
        yield changed


def _redacted(key: str, value: Any, change: Callable[[str], str]) -> Any:
    """What else a message says: its reasoning, the arguments of its calls. Names and ids lead to nobody."""
    match value:
        case str():
            return value if key in _NAMES else _within(value, change)
        case list():
            return [_redacted(key, one, change) for one in cast("list[Any]", value)]
        case dict():
            named = cast("dict[str, Any]", value).items()
            if key == _ARGUMENTS:  # whose names are the caller's own
                return {change(name): _redacted(key, inner, change) for name, inner in named}
            return {name: _redacted(name, inner, change) for name, inner in named}
        case int() | float() if key == _ARGUMENTS and not isinstance(value, bool):
            text = str(value)
            return value if (changed := change(text)) == text else changed
        case _:
            return value


def _within(text: str, change: Callable[[str], str]) -> str:
    """A text; if it is a JSON object or array, it stays one: its texts and numbers are looked at one by one."""
    if not text.lstrip().startswith(("{", "[")):
        return change(text)
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return change(text)
    return _VALUE.sub(lambda found: _value(found[0], change), text)


def _value(token: str, change: Callable[[str], str]) -> str:
    text = json.loads(token) if token.startswith('"') else token
    changed = _within(text, change)
    return token if changed == text else json.dumps(changed, ensure_ascii=False)
