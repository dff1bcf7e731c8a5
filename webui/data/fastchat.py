"""FastChat's two forms of an arena's data: lines of its conversation log, and cleaned battles.

Log lines are what its servers write and its cleaners read; battles are what its rating scripts read. People are hashes
in both directions: an address in a line that comes in is hashed with this store's salt and forgotten.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast

from webui.records import Answer, Battle, Choice, Conversation, Turn, Vote
from webui.store.archive import Ballot
from webui.traits.style import Style
from webui.traits.text import pieces

_TYPES: Final[dict[Choice, str]] = {"a": "leftvote", "b": "rightvote", "tie": "tievote", "both_bad": "bothbad_vote"}
_WINNERS: Final[dict[Choice, str]] = {"a": "model_a", "b": "model_b", "tie": "tie", "both_bad": "tie (bothbad)"}
_CHOICES: Final[dict[str, Choice]] = {name: choice for names in (_TYPES, _WINNERS) for choice, name in names.items()}


class NotAVote(ValueError):
    """A line that holds no vote on two conversations; the message says why, in few words that can be counted."""


def log_line(ballot: Ballot) -> dict[str, Any]:
    """A vote as a line of FastChat's conversation log; `ip` is the voter's hash."""
    blind = ballot.battle.mode == "battle"
    return {
        "tstamp": round(ballot.vote.cast.timestamp(), 4),
        "type": _TYPES[ballot.vote.choice],
        # An empty name is how FastChat says that the models were hidden.
        "models": ["", ""] if blind else list(ballot.battle.models),
        "states": [_state(ballot, side) for side in (0, 1)],
        "ip": ballot.vote.voter,
    }


def battle(ballot: Ballot) -> dict[str, Any]:
    """A vote as one of FastChat's cleaned battles, with the conversations and their style."""
    asked = sum(pieces(turn.prompt) for turn in ballot.turns)
    return {
        "question_id": f"{ballot.battle.id}-0",
        "model_a": ballot.battle.models[0],
        "model_b": ballot.battle.models[1],
        "winner": _WINNERS[ballot.vote.choice],
        "judge": f"arena_user_{ballot.vote.voter}",
        "conversation_a": _messages(ballot, 0),
        "conversation_b": _messages(ballot, 1),
        "turn": len(ballot.turns),
        "anony": ballot.battle.mode == "battle",
        "language": ballot.language,
        "tstamp": round(ballot.vote.cast.timestamp(), 4),
        "conv_metadata": {"sum_user_tokens": asked, **_style("a", ballot.a), **_style("b", ballot.b)},
        "categories": sorted(ballot.categories),
        "marks": sorted(ballot.marks),
        "probability": ballot.battle.probability,
    }


def conversation(line: Mapping[str, Any], voter_id: Callable[[str], str]) -> Conversation:
    """A log line or a cleaned battle as a conversation with its vote. Raises NotAVote."""
    try:
        if "winner" in line:
            return _from_battle(line, voter_id)
        if line.get("type") not in _CHOICES:
            raise NotAVote("no vote on a pair")
        return _from_log(line, voter_id)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, OverflowError) as error:
        if isinstance(error, NotAVote):
            raise
        raise NotAVote("not as FastChat writes it") from error


def _from_log(line: Mapping[str, Any], voter_id: Callable[[str], str]) -> Conversation:
    states = cast("Sequence[Mapping[str, Any]]", line["states"])
    names = [str(state["model_name"]) for state in states]
    said = [_said(state["messages"][int(state["offset"]) :]) for state in states]
    blind = not any(line["models"])
    return _made(
        f"fastchat-{states[0]['conv_id']}", names, said, line["type"], str(line["ip"]), line["tstamp"], blind, voter_id
    )


def _from_battle(line: Mapping[str, Any], voter_id: Callable[[str], str]) -> Conversation:
    names = [str(line["model_a"]), str(line["model_b"])]
    said = [_said([(m["role"], m["content"]) for m in line.get(f"conversation_{side}") or ()]) for side in "ab"]
    person = str(line["judge"]).removeprefix("arena_user_")
    known = str(line.get("question_id") or hashlib.sha256(repr(sorted(line.items())).encode()).hexdigest()[:32])
    blind = bool(line.get("anony", True))
    return _made(f"fastchat-{known}", names, said, line["winner"], person, line["tstamp"], blind, voter_id)


def _said(messages: Iterable[Any]) -> list[tuple[str, str]]:
    """Prompts with their answers, of alternating messages; the last prompt may be without one."""
    texts = [_text(message[1]) for message in messages]
    return list(zip(texts[::2], texts[1::2], strict=False))


def _text(content: Any) -> str:
    """A message's text; with pictures it is a list that begins with the text."""
    if content is None:
        return ""
    return content if isinstance(content, str) else str(cast("Sequence[Any]", content)[0])


def _made(
    battle_id: str,
    names: Sequence[str],
    said: Sequence[Sequence[tuple[str, str]]],
    outcome: str,
    person: str,
    when: Any,
    blind: bool,
    voter_id: Callable[[str], str],
) -> Conversation:
    if len(names) != 2 or not all(names) or names[0] == names[1]:
        raise NotAVote("not two models")
    cast_at = datetime.fromtimestamp(float(when), UTC)
    turns = [
        Turn(
            number=number,
            prompt=prompt,
            asked=cast_at,
            answers=(Answer(text=a, finish="stop"), Answer(text=b, finish="stop")),
        )
        for number, ((prompt, a), (_, b)) in enumerate(zip(said[0], said[1], strict=False), 1)
    ]
    # Battles are published without texts, too: the vote is then about one turn of which nothing is known.
    empty = Answer(text="", finish="stop")
    turns = turns or [Turn(number=1, prompt="", asked=cast_at, answers=(empty, empty))]
    voter = voter_id(f"fastchat:{person}")
    return Conversation(
        battle=Battle(
            id=battle_id[:128],
            mode="battle" if blind else "named",
            models=tuple(names),
            voter=voter,
            opened=cast_at,
        ),
        turns=tuple(turns),
        vote=Vote(battle=battle_id[:128], turn=len(turns), choice=_CHOICES[outcome], voter=voter, cast=cast_at),
    )


def _state(ballot: Ballot, side: int) -> dict[str, Any]:
    messages = [
        pair for turn in ballot.turns for pair in (["user", turn.prompt], ["assistant", turn.answers[side].text])
    ]
    return {
        "template_name": "chat",
        "system_message": "",
        "roles": ["user", "assistant"],
        "messages": messages,
        "offset": 0,
        "conv_id": ballot.battle.id + "ab"[side] if side else ballot.battle.id,
        "model_name": ballot.battle.models[side],
    }


def _messages(ballot: Ballot, side: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for turn in ballot.turns:
        answer = turn.answers[side].text
        found.append({"role": "user", "content": turn.prompt, "num_tokens": pieces(turn.prompt)})
        found.append({"role": "assistant", "content": answer, "num_tokens": pieces(answer)})
    return found


def _style(side: str, style: Style) -> dict[str, Any]:
    # FastChat counts each level of header and kind of list, and adds them up; here they come added up.
    return {
        f"sum_assistant_{side}_tokens": style.length,
        f"header_count_{side}": {"all": style.headers},
        f"list_count_{side}": {"all": style.lists},
        f"bold_count_{side}": {"all": style.bold},
    }
