"""The battle as a state machine: what may happen when, what is seen when, and that no pace tells the sides apart."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webui.battle import LiveBattle, NotNow, Phase
from webui.records import Answer, Battle, Choice, Finish, Mode

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def battle(mode: Mode = "battle") -> LiveBattle:
    models = ("m",) if mode == "direct" else ("m", "n")
    return LiveBattle(Battle(id="id", mode=mode, models=models, voter="v", opened=NOW, probability=0.5))


def end(live: LiveBattle, side: int, finish: Finish = "stop", error: str = "") -> None:
    live.finish(side, Answer(text="", finish=finish, error=error))


def answered(mode: Mode = "battle") -> LiveBattle:
    live = battle(mode)
    live.ask("question", (), NOW)
    for side in range(len(live.record.models)):
        live.add(side, f"answer {side}")
        end(live, side)
    return live


def texts(live: LiveBattle) -> list[str]:
    return [live.seen(side)[-1].text for side in range(2)]


def test_a_battle_from_prompt_to_reveal() -> None:
    live = battle()
    assert live.phase is Phase.EMPTY
    live.ask("question", (), NOW)
    assert (live.phase, live.pending) == (Phase.ANSWERING, [0, 1])
    live.add(0, "yes")
    live.add(1, "no")
    end(live, 0)
    assert not live.may_vote
    end(live, 1)
    assert (live.phase, live.may_vote, live.revealed) == (Phase.ANSWERED, True, False)
    vote = live.ballot("b", NOW)
    assert not live.revealed, "a vote that is not kept yet reveals nothing"
    live.close(vote)
    assert (live.phase, live.revealed, vote.turn) == (Phase.VOTED, True, 1)


def test_nothing_but_waiting_and_stopping_while_answers_come() -> None:
    live = answered()
    live.ask("second", (), NOW)
    for act in (lambda: live.ask("more", (), NOW), lambda: live.again(NOW), lambda: live.ballot("a", NOW)):
        with pytest.raises(NotNow):
            act()
    assert [turn.prompt for turn in live.turns] == ["question"]


def test_a_vote_ends_the_battle_and_is_the_only_one() -> None:
    live = answered()
    live.close(live.ballot("a", NOW))
    assert live.ballot("a", NOW) is live.vote, "the same vote again is the same vote"
    for act in (lambda: live.ballot("b", NOW), lambda: live.ask("more", (), NOW), lambda: live.again(NOW)):
        with pytest.raises(NotNow):
            act()


def test_a_side_that_fails_keeps_the_vote_shut_until_it_has_answered() -> None:
    live = answered()
    live.ask("second", (), NOW)
    end(live, 0, "error", "overloaded")
    live.add(1, "fine")
    assert texts(live) == ["", "fine"], "the other side need not wait for it"
    end(live, 1)
    assert (live.phase, live.may_vote) == (Phase.BROKEN, False)
    with pytest.raises(NotNow):
        live.ask("third", (), NOW)
    live.again(NOW)
    for side in range(2):
        live.add(side, "now")
        end(live, side)
    assert live.may_vote
    assert [turn.prompt for turn in live.turns] == ["question", "second"]


def test_a_prompt_is_edited_in_place() -> None:
    live = answered()
    live.edit("better", NOW)
    for side in range(2):
        end(live, side)
    assert [(turn.number, turn.prompt) for turn in live.turns] == [(1, "better")]


def test_one_stop_stops_both_where_they_were_seen() -> None:
    live = battle()
    live.ask("question", (), NOW)
    live.add(0, "a long answer that is ahead")
    end(live, 0)
    live.add(1, "short")
    assert texts(live) == ["a lon", "short"]
    end(live, 1, "stopped")
    assert live.phase is Phase.STOPPED
    assert [(answer.text, answer.finish) for answer in live.turns[0].answers] == [
        ("a lon", "stopped"),
        ("short", "stopped"),
    ]


@pytest.mark.parametrize(("mode", "before"), [("battle", ""), ("named", "hm")])
def test_reasoning_is_hidden_until_the_reveal_unless_there_is_nothing_to_hide(mode: Mode, before: str) -> None:
    live = battle(mode)
    live.ask("question", (), NOW)
    live.add(0, reasoning="hm")
    assert live.seen(0)[-1].reasoning == before
    live.add(0, "a")
    live.add(1, "b")
    end(live, 0)
    end(live, 1)
    assert live.seen(0)[-1].reasoning == before
    live.close(live.ballot("tie", NOW))
    assert live.seen(0)[-1].reasoning == "hm"


def test_a_chat_with_one_model_has_no_vote() -> None:
    live = answered("direct")
    assert not live.may_vote
    with pytest.raises(NotNow):
        live.ballot("a", NOW)


@given(st.lists(st.tuples(st.sampled_from([0, 1]), st.text(min_size=1, max_size=9)), max_size=40))
def test_both_sides_show_as_much_at_any_time(pieces: list[tuple[int, str]]) -> None:
    """As long as both are at it, what is seen is a prefix of what came, of one length, and never shrinks."""
    live = battle()
    live.ask("question", (), NOW)
    came, before = ["", ""], (0, 0)
    for side, text in pieces:
        live.add(side, text)
        came[side] += text
        seen = texts(live)
        assert len(seen[0]) == len(seen[1]) == min(map(len, came))
        assert all(whole.startswith(part) for whole, part in zip(came, seen, strict=True))
        assert live.progress >= before
        before = (len(seen[0]), len(seen[1]))


@given(st.integers(0, 30), st.integers(0, 30), st.sampled_from(["a", "b", "tie", "both_bad"]))
def test_all_that_came_is_seen_in_the_end(first: int, second: int, choice: Choice) -> None:
    live = battle()
    live.ask("question", (), NOW)
    live.add(0, "x" * first)
    end(live, 0)
    assert texts(live)[0] == "", "nothing came of the other yet, so that this one has ended must not show"
    live.add(1, "y" * second)
    end(live, 1)
    assert texts(live) == ["x" * first, "y" * second]
    assert live.ballot(choice, NOW).choice == choice
