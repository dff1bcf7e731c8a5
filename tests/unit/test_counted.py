"""Numbers of things in sentences."""

from __future__ import annotations

import pytest

from mesh.counted import counted


@pytest.mark.parametrize(
    ("number", "what", "said"),
    [
        (0, "vote", "0 votes"),
        (1, "vote", "1 vote"),
        (2000, "vote", "2,000 votes"),
        (1, "voter with enough votes", "1 voter with enough votes"),
        (2, "voter with enough votes", "2 voters with enough votes"),
    ],
)
def test_one_of_a_thing_has_no_plural(number: int, what: str, said: str) -> None:
    assert counted(number, what) == said
