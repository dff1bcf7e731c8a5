"""Guessing the next tokens of a row from its own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.engine.transformers.scheduling.drafts import Drafter


def plain_guess(tokens: list[int], most: int) -> list[int]:
    """The same by comparing slices."""
    for length in (4, 3, 2):
        for start in range(len(tokens) - length - 1, -1, -1):
            if tokens[start : start + length] == tokens[-length:]:
                return tokens[start + length : start + length + most]
    return []


# Few tokens, with bytes that look alike when they are shifted.
_TOKENS = st.lists(st.sampled_from([0, 1, 256, 65536, 257]), max_size=40)


@given(_TOKENS, _TOKENS, st.integers(1, 5))
def test_it_is_what_followed_the_last_time(before: list[int], after: list[int], most: int) -> None:
    drafter = Drafter()
    assert drafter.guess(before, most) == plain_guess(before, most)
    assert drafter.guess(before + after, most) == plain_guess(before + after, most)


def test_after_wrong_guesses_it_is_silent_for_longer_and_longer() -> None:
    drafter, tokens = Drafter(), [1, 2] * 10
    silences: list[int] = []
    for _ in range(8):
        assert drafter.guess(tokens, 4)
        drafter.learn(0, len(tokens))
        silent = 0
        while not drafter.guess(tokens, 4):
            tokens.append(tokens[-2])
            silent += 1
        silences.append(silent)
    assert silences == [1, 2, 4, 8, 16, 32, 32, 32]
    drafter.learn(1, len(tokens))
    assert drafter.guess(tokens, 4)
