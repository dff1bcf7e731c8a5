"""Splitting loses no turn and doubles none, whatever the lengths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from mesh.config import ConfigError
from training.conversations import Conversation, Message
from training.data.split import PART_OF, Split
from training.data.tool import Dropped


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tokenizer with a token for each word."""
    made = Tokenizer(models.WordLevel({"x": 0, "[UNK]": 1}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return str(path)


def talk(*lengths: int, system: int = 0) -> Conversation:
    """Messages of so many tokens, of the user and the assistant in turn, each with words of its own."""
    begin = (Message("system", "s " * system),) if system else ()
    return Conversation(
        begin
        + tuple(
            Message(("user", "assistant")[place % 2], f"{place} " * length) for place, length in enumerate(lengths)
        ),
        "talk",
    )


def pieces(tool: Split, conversation: Conversation) -> Iterator[Conversation | Dropped]:
    return (one for one in tool.step()(conversation) if isinstance(one, Conversation | Dropped))


def lengths(piece: Conversation | Dropped) -> list[int]:
    found = piece.conversation if isinstance(piece, Dropped) else piece
    return [len(message.content.split()) for message in found.messages]


_messages = st.lists(st.tuples(st.sampled_from(["user", "assistant", "tool"]), st.integers(0, 12)), max_size=12)


@given(_messages, st.integers(0, 6), st.integers(1, 40), st.integers(0, 6))
def test_no_turn_is_lost_or_doubled(
    tokenizer: str, turns: list[tuple[str, int]], system: int, most: int, overhead: int
) -> None:
    begin = (Message("system", "s " * system),) if system or not turns else ()
    said = tuple(Message(role, f"{place} " * length) for place, (role, length) in enumerate(turns))
    conversation = Conversation(begin + said, "talk")
    tool = Split(tokenizer=tokenizer, max_tokens=most, overhead=overhead)
    found = list(pieces(tool, conversation))
    after = sum(
        (p.conversation.messages[len(begin) :] if isinstance(p, Dropped) else p.messages[len(begin) :] for p in found),
        (),
    )
    assert after == said
    for piece in found:
        assert (piece.conversation if isinstance(piece, Dropped) else piece).messages[: len(begin)] == begin
        tokens = sum(length + overhead for length in lengths(piece))
        assert (tokens > most) == isinstance(piece, Dropped)


def test_as_many_exchanges_as_fit(tokenizer: str) -> None:
    tool = Split(tokenizer=tokenizer, max_tokens=20, overhead=0)
    found = list(pieces(tool, talk(4, 4, 4, 4, 4, 4, 4, 4, system=2)))
    assert [lengths(piece) for piece in found] == [[2, 4, 4, 4, 4], [2, 4, 4, 4, 4]]
    assert [piece.id for piece in found if isinstance(piece, Conversation)] == ["talk-1", "talk-2"]
    assert all(piece.extra[PART_OF] == "talk" for piece in found if isinstance(piece, Conversation))


def test_what_fits_stays_as_it_is(tokenizer: str) -> None:
    conversation = talk(4, 4)
    assert list(Split(tokenizer=tokenizer, max_tokens=8, overhead=0).step()(conversation)) == [conversation]


def test_calls_reasoning_and_tools_count(tokenizer: str) -> None:
    """A template writes them too: a piece that seems to fit would be cut off in training."""
    thought = {"reasoning_content": "x x x x", "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1}'}}]}
    asked = (Message("user", "x"), Message("assistant", "x", thought))  # 1 + (4 + 1 + 3)
    given = Conversation(asked + asked, "talk", {"tools": [{"name": "f"}]})  # {"name": "f"} is two words
    assert list(pieces(Split(tokenizer=tokenizer, max_tokens=20, overhead=0), given)) == [given]
    found = list(pieces(Split(tokenizer=tokenizer, max_tokens=19, overhead=0), given))
    assert [lengths(piece) for piece in found] == [[1, 1], [1, 1]]
    (first, second) = pieces(Split(tokenizer=tokenizer, max_tokens=10, overhead=0), given)
    assert isinstance(first, Dropped)
    assert isinstance(second, Dropped)
    assert first.detail == "11 tokens, 10 allowed"


# FastChat's split_long_conversation, on the same three:


def test_the_last_pair_stays_when_it_overflows(tokenizer: str) -> None:
    """FastChat drops it."""
    found = list(pieces(Split(tokenizer=tokenizer, max_tokens=10, overhead=0), talk(4, 4, 5, 4)))
    assert [lengths(piece) for piece in found] == [[4, 4], [5, 4]]


def test_a_first_pair_that_is_too_long_leaves_no_empty_conversation(tokenizer: str) -> None:
    """FastChat writes a conversation without messages, of which training dies."""
    dropped, kept = pieces(Split(tokenizer=tokenizer, max_tokens=10, overhead=0), talk(9, 9, 4, 4))
    assert isinstance(dropped, Dropped)
    assert (lengths(dropped), dropped.reason) == ([9, 9], "an exchange longer than a piece")
    assert dropped.detail == "18 tokens, 10 allowed"
    assert isinstance(kept, Conversation)
    assert lengths(kept) == [4, 4]


def test_a_pair_that_is_too_long_is_dropped_wherever_it_is(tokenizer: str) -> None:
    """FastChat keeps it, over-long, when another pair follows."""
    tool = Split(tokenizer=tokenizer, max_tokens=10, overhead=0)
    for conversation in (talk(4, 4, 9, 9, 5, 5), talk(4, 4, 5, 5, 9, 9)):
        found = list(pieces(tool, conversation))
        assert sorted(map(lengths, (piece for piece in found if isinstance(piece, Conversation)))) == [[4, 4], [5, 5]]
        assert [lengths(piece) for piece in found if isinstance(piece, Dropped)] == [[9, 9]]


def test_a_system_message_without_an_end(tokenizer: str) -> None:
    (dropped,) = pieces(
        Split(tokenizer=tokenizer, max_tokens=10, overhead=0), Conversation((Message("system", "s " * 11),))
    )
    assert isinstance(dropped, Dropped)
    assert dropped.reason == "a system message longer than a piece"


def test_a_preference_is_not_cut(tokenizer: str) -> None:
    given = Conversation(talk(4, 4).messages, rejected=(Message("assistant", "x " * 4),), prompt_length=1)
    assert list(pieces(Split(tokenizer=tokenizer, max_tokens=12, overhead=0), given)) == [given]
    (dropped,) = pieces(Split(tokenizer=tokenizer, max_tokens=11, overhead=0), given)
    assert isinstance(dropped, Dropped)


def test_a_tokenizer_that_is_none_is_told_before_the_first_conversation(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"--tokenizer .*tokenizer.json"):
        Split(tokenizer=str(tmp_path / "tokenizer.json")).check()
    with pytest.raises(ConfigError, match="is no folder or file, and the hub did not give it"):
        Split(tokenizer="nobody/nothing").check()
