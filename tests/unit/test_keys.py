"""Keys: what is made, what is kept, what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mesh.errors import MeshError
from mesh.keys import digest, id_of, new_key
from mesh.keys.key import decode_key, encode


def test_the_secret_is_in_the_text_alone() -> None:
    key, text = new_key("team a", models=("m",), requests_per_minute=60)
    secret = text.rpartition(f"{key.id}-")[2]
    kept = encode(key).decode()
    assert id_of(text) == key.id
    assert key.hash == digest(text)
    assert len(secret) >= 43
    assert secret not in kept
    assert decode_key(kept.encode()) == key
    assert new_key("team a")[1] != text


@pytest.mark.parametrize("text", ["", "sk-mesh-", "sk-mesh-abcdefghjk", "sk-mesh-abcdefghjk-", "sk-mesh-ABC-x", "none"])
def test_what_is_no_key_has_no_id(text: str) -> None:
    assert id_of(text) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": ""}, "'name' must be"),
        ({"name": "a\nb"}, "'name' must be"),
        ({"name": "a", "expires": "tomorrow"}, "a duration such as 30d, 12h or 45m, not 'tomorrow'"),
        ({"name": "a", "expires": "0d"}, "not '0d'"),
        ({"name": "a", "token_budget": 0}, "'token_budget' must be between 1 and"),
        ({"name": "a", "priority": 101}, "'priority' must be between -100 and 100, not 101"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MeshError, match=message):
        new_key(**arguments)


def test_expiry() -> None:
    key, _ = new_key("a", expires="12h")
    now = datetime.now(UTC)
    assert not key.expired(now)
    assert key.expired(now + timedelta(hours=12))
    assert not new_key("a")[0].expired(now + timedelta(days=10_000))


@pytest.mark.parametrize("value", [b"", b"\xff", b"{}", b'{"id": "x", "name": "n", "hash": "h"}', b"[1]"])
def test_a_record_that_is_no_key_is_an_error(value: bytes) -> None:
    with pytest.raises(MeshError):
        decode_key(value)


def test_fields_of_newer_versions_are_ignored() -> None:
    key, _ = new_key("a")
    assert decode_key(encode(key)[:-1] + b',"later":1}') == key
