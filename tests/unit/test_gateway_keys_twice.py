"""Keys that come twice: the quick look and the patient one find the same, whatever is escaped, wherever it stands."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.openai.keys import check_each, check_once
from mesh.errors import MeshError

# Colons and backslashes, plain and escaped; names of which some are the same in two spellings.
_strings = st.text('a:\\"u03é', max_size=4).map(json.dumps) | st.sampled_from(
    [r'"\u003a"', r'"\u003A"', r'"\\u003a"', r'"\\\u003a"', '":"', '""', r'"\u0061"', '"a"']
)
_values = st.recursive(
    _strings | st.sampled_from(["1", "1e3", "null", "true", "123456789012345678901234567890"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.lists(st.tuples(_strings, inner), max_size=3).map(
            lambda pairs: "{" + ", ".join(f"{name} : {value}" for name, value in pairs) + "}"
        )
    ),
    max_leaves=12,
)


def refused(text: str, *, each: bool) -> bool:
    try:
        (check_each if each else check_once)(text.encode())
    except MeshError as error:
        return "twice" in error.message
    return False


@given(_values)
def test_both_ways_say_the_same(text: str) -> None:
    assert refused(text, each=False) == refused(text, each=True)


@pytest.mark.parametrize(
    ("text", "twice"),
    [
        ('{"a": 1, "a": 2}', True),
        (r'{"a": 1, "\u0061": "\u003a"}', True),
        (r'{"a": ":", "b": "\u003a\\u003a"}', False),
        ('[{"a": {"b": 1}}, {"a": {"b": 1}}]', False),
        ('[{"a": {"b": 1, "c": 2, "b": ":"}}]', True),
    ],
)
def test_what_counts_as_twice(text: str, twice: bool) -> None:
    assert refused(text, each=False) == refused(text, each=True) == twice


@pytest.mark.timeout(20)
def test_the_key_that_comes_twice_is_found_at_once_among_many() -> None:
    names = [f"k{number}" for number in range(150_000)]
    text = "{" + ",".join(f'"{name}":0' for name in [*names, names[-1]]) + "}"
    with pytest.raises(MeshError, match="'k149999' is given twice"):
        check_each(text.encode())
