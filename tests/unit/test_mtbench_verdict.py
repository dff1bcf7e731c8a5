"""Verdicts in judges' words: strict, and never a guess."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.mt_bench.verdict import Preference, Rating, Unscored, five_way, preference, rating, split_thinking

# Anything a judge may say that holds no bracket of its own.
WORDS = st.text(st.characters(exclude_characters="[]", exclude_categories=("Cs",)), max_size=60)
WHOLE = st.integers(1, 10)
LABELS = ("A>>B", "A>B", "A=B", "B>A", "B>>A")


@given(WORDS, WHOLE, WORDS)
def test_the_rating_in_double_brackets_is_found_wherever_it_stands(before: str, score: int, after: str) -> None:
    assert rating(f"{before}[[{score}]]{after}") == Rating(score)


@given(WORDS, WHOLE)
def test_one_that_is_repeated_is_one(words: str, score: int) -> None:
    assert rating(f"[[{score}]]{words}[[{score}]]") == Rating(score)


@given(WHOLE, WHOLE)
def test_two_different_ones_are_none(first: int, second: int) -> None:
    found = rating(f"For example [[{first}]]. Rating: [[{second}]]")
    assert found == Rating(first) if first == second else isinstance(found, Unscored)


@given(st.integers().filter(lambda value: not 1 <= value <= 10))
def test_what_is_off_the_scale_is_none(score: int) -> None:
    assert isinstance(rating(f"Rating: [[{score}]]"), Unscored)


@given(WORDS)
def test_words_without_brackets_are_none(words: str) -> None:
    assert isinstance(rating(words), Unscored)
    assert isinstance(preference(words), Unscored)
    assert isinstance(five_way(words), Unscored)


@given(st.text(max_size=80))
def test_nothing_breaks_the_parsers(words: str) -> None:
    for read in (rating, preference, five_way):
        assert read(words) is not None
    assert isinstance(split_thinking(words)[1], str)


@pytest.mark.parametrize(
    ("words", "score"),
    [
        ("Rating: [[7.5]]", 7.5),
        ("Rating: [[7.]]", 7.0),
        ("Rating: [7]", 7),  # the protocol's second try
        ("see xs[1] and xs[2]. Rating: [8]", 8),
        ("A list [3] of [4] things, but Rating: [[9]]", 9),
    ],
)
def test_ratings_that_count(words: str, score: float) -> None:
    assert rating(words) == Rating(score)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("Rating: [[11]]", "rating 11 is not between 1 and 10"),
        ("Rating: [[0]]", "rating 0 is not between 1 and 10"),
        ("[[7]] or rather [[9]]", "several ratings: 7, 9"),
        ("Rating: [[７]]", "no rating such as [[5]]"),
        ("Rating: 【【7】】", "no rating such as [[5]]"),
        ("Rating: [[10/10]]", "no rating such as [[5]]"),
        ("Rating: [[ 7 ]]", "no rating such as [[5]]"),
        ("Rating: 7", "no rating such as [[5]]"),
        ("I am sorry, I cannot grade this.", "no rating such as [[5]]"),
        (" \n", "the judge said nothing"),
    ],
)
def test_ratings_that_do_not(words: str, reason: str) -> None:
    found = rating(words)
    assert isinstance(found, Unscored)
    assert reason in found.reason


@given(WORDS, st.sampled_from("ABC"), WORDS)
def test_a_preference_is_found_wherever_it_stands(before: str, letter: str, after: str) -> None:
    assert preference(f"{before}[[{letter}]]{after}") == Preference({"A": "A", "B": "B", "C": "tie"}[letter])  # pyright: ignore[reportArgumentType]


@given(st.sets(st.sampled_from("ABC"), min_size=2))
def test_different_preferences_are_none(letters: set[str]) -> None:
    assert isinstance(preference(" ".join(f"[[{letter}]]" for letter in sorted(letters))), Unscored)


@given(st.sampled_from(string.ascii_letters.replace("A", "").replace("B", "").replace("C", "")))
def test_other_letters_are_no_preference(letter: str) -> None:
    assert isinstance(preference(f"[[{letter}]]"), Unscored)


@given(st.sampled_from(LABELS))
def test_five_levels_are_read_both_ways_round(label: str) -> None:
    side = "tie" if "=" in label else label[0]
    swapped = label[-1] + label[1:-1].replace(">", "<") + label[0]
    assert five_way(f"[[{label}]]") == Preference(side, label)  # pyright: ignore[reportArgumentType]
    assert five_way(f"My verdict: [[{swapped}]]") == Preference(side, label)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("words", ["[[A>B]] or [[A>>B]]", "[[A>A]]", "[[A>>>B]]", "[[A]]", "[[A<>B]]"])
def test_other_levels_are_none(words: str) -> None:
    assert isinstance(five_way(words), Unscored)


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("<think>\nHm [[3]]\n</think>\n\nRating: [[7]]", "Hm [[3]]", "Rating: [[7]]"),
        ("<thinking>Hm</thinking>Yes", "Hm", "Yes"),
        ("Hm.\n</think>\nYes", "Hm.", "Yes"),  # the template had opened it
        ("[THINK]Hm [[3]][/THINK]\n[[7]]", "Hm [[3]]", "[[7]]"),
        ("Hm.[/THINK]Yes", "Hm.", "Yes"),
        ("<think>never ends", "never ends", ""),
        ("Yes, <think> is a tag.", "", "Yes, <think> is a tag."),
        ("Yes", "", "Yes"),
    ],
)
def test_thinking_is_split_off(text: str, thinking: str, answer: str) -> None:
    assert split_thinking(text) == (thinking, answer)
