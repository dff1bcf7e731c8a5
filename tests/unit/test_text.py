"""Detokenizers and the stop matcher: pieces put together are the whole, however it is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.engine.script import VOCAB_SIZE, ScriptCodec
from mesh.engine.text import Codec, Detokenizer, StopMatcher, StopStrings, Tokenizer, WindowDetokenizer
from mesh.errors import ErrorKind, MeshError
from tests.unit.tokenizers import FAMILIES, byte_fallback, byte_level, metaspace

IDS = st.lists(st.integers(0, 310), max_size=30)
TEXTS = st.text(st.sampled_from("ab €é日🙂 \nhello"), max_size=40)


def codec(family: str) -> Tokenizer:
    return Tokenizer(FAMILIES[family](), (1,))


def streamed(detokenizer: Detokenizer, ids: Sequence[int]) -> str:
    return "".join(map(detokenizer.push, ids)) + detokenizer.flush()


def hf_decode(family: str, ids: Sequence[int], *, keep: bool = False) -> str:
    hf = FAMILIES[family]()
    known = [token_id for token_id in ids if token_id < len(hf)]
    text = hf.decode(known, skip_special_tokens=not keep, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("family", FAMILIES)
@given(ids=IDS, keep=st.booleans())
def test_deltas_put_together_are_the_whole_decoding(family: str, ids: list[int], keep: bool) -> None:
    tokenizer = codec(family)
    text = streamed(tokenizer.detokenizer(keep_special_tokens=keep), ids)
    assert text == tokenizer.decode(ids, keep_special_tokens=keep)


@pytest.mark.parametrize("family", ["byte level", "metaspace", "word pieces"])
@given(ids=IDS, keep=st.booleans())
def test_any_ids_decode_as_hugging_face_decodes_them(family: str, ids: list[int], keep: bool) -> None:
    assert codec(family).decode(ids, keep_special_tokens=keep) == hf_decode(family, ids, keep=keep)


@pytest.mark.parametrize("family", ["byte level", "byte fallback"])
@given(text=TEXTS)
def test_text_is_reversible_and_decodes_as_hugging_face_decodes_it(family: str, text: str) -> None:
    tokenizer = codec(family)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == hf_decode(family, ids)
    if family == "byte level":
        assert tokenizer.decode(ids) == text


def test_broken_bytes_cost_one_character_each_and_no_neighbour() -> None:
    """The documented difference: Hugging Face gives up the whole run of byte tokens, which cannot be streamed."""
    tokenizer = Tokenizer(byte_fallback())
    euro = [1 + byte for byte in "€".encode()]
    assert tokenizer.decode([*euro, 1 + 0xFF, *euro]) == "€\ufffd€"


def test_incomplete_characters_are_held_back() -> None:
    tokenizer = Tokenizer(byte_level())
    detokenizer = tokenizer.detokenizer()
    ids = tokenizer.encode("日🙂", add_special_tokens=False)
    released = [detokenizer.push(token_id) for token_id in ids]
    assert "".join(released) == "日🙂"
    assert "\ufffd" not in "".join(released)
    assert released[-1] == "🙂"
    detokenizer.push(ids[0])
    assert detokenizer.flush() == "\ufffd"


@pytest.mark.parametrize("make", [byte_fallback, metaspace])
def test_the_first_space_is_dropped_only_where_a_text_begins(make: Callable[[], Any]) -> None:
    hf = make()
    tokenizer = Tokenizer(hf)
    hello, world = hf.convert_tokens_to_ids("▁hello"), hf.convert_tokens_to_ids("▁world")
    assert streamed(tokenizer.detokenizer(), [hello, world]) == "hello world"
    assert streamed(tokenizer.detokenizer(context=[hello]), [world, hello]) == " world hello"
    assert streamed(tokenizer.detokenizer(context=[hf.bos_token_id]), [world]) == "world"


def test_special_tokens_have_text_only_on_request() -> None:
    tokenizer = Tokenizer(byte_level())
    bos = tokenizer.hf.bos_token_id
    ids = [*tokenizer.encode("a<extra text>"), bos]
    assert tokenizer.decode(ids) == "a<extra text>"
    assert tokenizer.decode(ids, keep_special_tokens=True) == "<s>a<extra text><s>"


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_outside_the_vocabulary_have_no_text(family: str) -> None:
    tokenizer = codec(family)
    assert tokenizer.decode([99_999, 2**31, -1]) == ""
    assert tokenizer.token_bytes(99_999) == b""


def test_token_bytes_join_to_the_text() -> None:
    tokenizer = Tokenizer(byte_level())
    ids = tokenizer.encode("hé 日本", add_special_tokens=False)
    assert b"".join(map(tokenizer.token_bytes, ids)).decode() == "hé 日本"
    euro = tokenizer.encode("€", add_special_tokens=False)
    assert [tokenizer.token_bytes(token_id) for token_id in euro] == [b"\xe2", b"\x82", b"\xac"]


@pytest.mark.parametrize("make", [lambda: Tokenizer(byte_level()), ScriptCodec], ids=["hugging face", "scripted"])
def test_a_lone_surrogate_is_refused_by_name(make: type[Codec]) -> None:
    with pytest.raises(MeshError, match=r"a lone surrogate \(U\+D800\) at character 2") as caught:
        make().encode("ab\ud800", param="messages")
    assert caught.value.kind is ErrorKind.INVALID_REQUEST
    assert caught.value.param == "messages"


def test_nul_is_a_character_like_others() -> None:
    tokenizer = Tokenizer(byte_level())
    assert tokenizer.decode(tokenizer.encode("a\0b")) == "a\0b"


def test_a_window_stays_small_whatever_comes() -> None:
    """Tokens without text, tokens with text, and characters that never become complete."""
    longest = 0

    def decode(ids: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return "".join({0: "", 1: "a", 2: "\ufffd"}[token_id] for token_id in ids)

    ids = [1, *[0] * 1000, *[1] * 1000, *[2] * 1000, 1]
    detokenizer = WindowDetokenizer(decode)
    released = [detokenizer.push(token_id) for token_id in ids]
    assert "".join(released) + detokenizer.flush() == "a" * 1001 + "\ufffd" * 1000 + "a"
    assert longest <= 20
    assert all("".join(released[start : start + 4]) for start in range(1001, 2998))


@given(text=TEXTS)
def test_the_scripted_codec_is_reversible(text: str) -> None:
    own = ScriptCodec()
    assert own.decode(own.encode(f"the sea {text}")) == f"the sea {text}"


@given(ids=st.lists(st.integers(0, VOCAB_SIZE + 3), max_size=20))
def test_the_scripted_codec_decodes_anything(ids: list[int]) -> None:
    own = ScriptCodec()
    text = own.decode(ids)
    released = streamed(own.detokenizer(), ids)
    assert released in (text, text.removeprefix(" "))


# Stop strings

STOPS = st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=5)


def first_match(text: str, stops: Sequence[str]) -> tuple[int, int] | None:
    """End and beginning of the stop string that is complete first, the longest of several."""
    found = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    return min(found) if found else None


def cut(text: str, cuts: Sequence[int]) -> list[str]:
    borders = sorted({0, len(text), *(place % (len(text) + 1) for place in cuts)})
    return [text[start:end] for start, end in pairwise(borders)]


@given(text=st.text("abc", max_size=40), stops=STOPS, cuts=st.lists(st.integers(0, 40), max_size=12))
def test_the_stop_matcher_finds_what_a_search_of_the_whole_text_finds(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    matcher = StopMatcher(StopStrings(stops))
    released = ""
    for piece in cut(text, cuts):
        released += matcher.push(piece)
        if matcher.matched is not None:
            break
    match = first_match(text, stops)
    if match is None:
        assert matcher.matched is None
        assert released + matcher.flush() == text
    else:
        end, start = match
        assert matcher.matched == text[start:end]
        assert released == text[:start]


@given(text=st.text("ab", max_size=30), stops=STOPS)
def test_the_stop_matcher_holds_back_nothing_but_a_possible_beginning(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(StopStrings(stops))
    released, seen = "", ""
    for char in text:
        released += matcher.push(char)
        seen += char
        if matcher.matched is not None:
            return
        held = seen[len(released) :]
        assert not held or any(stop.startswith(held) for stop in stops)


@pytest.mark.parametrize(
    ("stops", "text", "released", "matched"),
    [
        (["STOP"], "a STOP b", "a ", "STOP"),
        (["bc", "abcd"], "xabcd", "xa", "bc"),
        (["c", "abc"], "xabc", "x", "abc"),
        (["\n\n"], "one\n\ntwo", "one", "\n\n"),
        (["é"], "cafe é", "cafe ", "é"),
    ],
)
def test_the_first_to_be_complete_wins_and_the_longest_of_several(
    stops: list[str], text: str, released: str, matched: str
) -> None:
    matcher = StopMatcher(StopStrings(stops))
    assert matcher.push(text) == released
    assert matcher.matched == matched


@pytest.mark.parametrize(
    ("stops", "sentence"),
    [
        (["x"] * 10_000, "at most 64 texts, not 10000"),
        ([""], "1 to 1024 characters, not 0"),
        (["x" * 1025], "1 to 1024 characters, not 1025"),
        (["a\udc00"], "lone surrogate"),
    ],
)
def test_limits_of_stop_strings(stops: list[str], sentence: str) -> None:
    with pytest.raises(MeshError, match=sentence) as caught:
        StopStrings(stops)
    assert caught.value.param == "stop"


def test_the_worst_stop_strings_stay_cheap() -> None:
    """64 strings of 1024 equal characters against a text of such: linear, or this takes minutes."""
    matcher = StopMatcher(StopStrings(["a" * 1023 + chr(ord("b") + n) for n in range(60)]))
    released = "".join(matcher.push("a" * 4) for _ in range(1000))
    assert len(released + matcher.flush()) == 4000


@pytest.mark.parametrize("family", FAMILIES)
def test_the_text_of_some_special_tokens_can_be_kept(family: str) -> None:
    tokenizer = codec(family)
    begin, end = (int(tokenizer.hf.convert_tokens_to_ids(token)) for token in ("<s>", "</s>"))
    (word,) = [tokenizer.hf.convert_tokens_to_ids(each) for each in ("a",)]
    text = streamed(tokenizer.detokenizer(kept_tokens=("</s>",)), [begin, word, end])
    assert text.replace(" ", "") == "a</s>"
