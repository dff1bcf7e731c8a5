"""An API key, as it is kept: everything but the secret, of which only a hash is there.

A client sends `sk-mesh-<id>-<secret>`. The id finds the key, names the tenant in logs, and is no secret. The secret has
256 random bits, so that one round of SHA-256 is as good as a slow hash, and costs a request nothing.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from mesh.errors import MeshError, invalid, out_of_range

_PREFIX = "sk-mesh-"
# Without what people mistake for one another.
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
_ID_LENGTH = 10
_ID = re.compile(rf"[{_LETTERS}]{{{_ID_LENGTH}}}")
_DURATION = re.compile(r"(\d+)([mhd])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_MOST = 2**53
_PRIORITY = 100


class Usage(msgspec.Struct, frozen=True):
    """What a key has used since it was made."""

    requests: int = 0
    tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.requests + other.requests, self.tokens + other.tokens)

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.requests - other.requests, self.tokens - other.tokens)


class Key(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key and what it allows; None is no limit.

    id: public, unique. name: for people. hash: see `digest`.
    models: served names that it may use; none are all. metrics: whether it may read /metrics, where that is not open.
    requests_per_minute, tokens_per_minute: tokens are those of prompts and answers together.
    concurrency: most requests under way at a time. token_budget: tokens over the key's whole life.
    priority: the most urgent priority that its requests may ask for, from -100 to 100; lower runs earlier.
    """

    id: str
    name: str
    hash: str
    created_at: datetime
    expires_at: datetime | None = None
    models: tuple[str, ...] = ()
    metrics: bool = False
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    token_budget: int | None = None
    priority: int | None = None

    def expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and now >= self.expires_at

    def allows(self, model: str) -> bool:
        """Whether its requests may use the model."""
        return not self.models or model in self.models

    @property
    def shown(self) -> str:
        """The beginning of the key, by which its owner recognizes it."""
        return f"{_PREFIX}{self.id}-…"


def new_key(name: str, *, expires: str | None = None, **limits: Any) -> tuple[Key, str]:
    """A new key, and the text to give to its owner, which is kept nowhere.

    `expires`: after how long, as 30d, 12h or 45m. `limits`: fields of Key. Raises MeshError for what makes no sense.
    """
    if not name or len(name) > 100 or not name.isprintable():
        raise invalid("name", f"'name' must be 1 to 100 printable characters, not {name[:100]!r}")
    now = datetime.now(UTC).replace(microsecond=0)
    key_id = "".join(secrets.choice(_LETTERS) for _ in range(_ID_LENGTH))
    text = f"{_PREFIX}{key_id}-{secrets.token_urlsafe(32)}"
    expires_at = None if expires is None else now + _duration(expires)
    key = Key(id=key_id, name=name, hash=digest(text), created_at=now, expires_at=expires_at, **limits)
    _check(key)
    return key, text


def id_of(text: str) -> str | None:
    """The id in a key's text; None if it is none of ours."""
    key_id, dash, secret = text.removeprefix(_PREFIX).partition("-")
    ours = text.startswith(_PREFIX) and _ID.fullmatch(key_id) is not None and bool(dash and secret)
    return key_id if ours else None


def digest(text: str) -> str:
    """What is kept of a key's text."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def encode(value: Key | Usage) -> bytes:
    """One line of JSON."""
    return msgspec.json.encode(value)


def decode_key(value: bytes) -> Key:
    """Read what `encode` wrote; fields of newer versions are ignored. Raises MeshError if it is no key."""
    try:
        key = msgspec.json.decode(value, type=Key)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise invalid("key", f"not a key: {error}") from None
    _check(key)
    return key


def decode_usage(value: bytes) -> Usage:
    """Read what `encode` wrote. Raises MeshError if it is no usage."""
    try:
        return msgspec.json.decode(value, type=Usage)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise invalid("usage", f"not a usage: {error}") from None


def _check(key: Key) -> None:
    if not _ID.fullmatch(key.id):
        raise invalid("id", f"'id' must be {_ID_LENGTH} of {_LETTERS}, not {key.id[:100]!r}")
    for name in ("requests_per_minute", "tokens_per_minute", "concurrency", "token_budget"):
        value = getattr(key, name)
        if value is not None and not 1 <= value <= _MOST:
            raise out_of_range(name, value, 1, _MOST)
    if key.priority is not None and not -_PRIORITY <= key.priority <= _PRIORITY:
        raise out_of_range("priority", key.priority, -_PRIORITY, _PRIORITY)
    if key.expires_at is not None and key.expires_at.tzinfo is None:
        raise invalid("expires_at", "'expires_at' must have a time zone")


def _duration(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None or not int(match[1]) or int(match[1]) > 100_000:
        raise invalid("expires", f"'expires' must be a duration such as 30d, 12h or 45m, not '{text[:100]}'")
    return int(match[1]) * _UNITS[match[2]]


def missing(key_id: str) -> MeshError:
    """There is no such key."""
    return invalid("key", f"there is no key '{key_id[:100]}'; `mesh ctl keys list` shows all")
