"""A battle while it goes on, as a state machine: what may happen when, and what may be seen when.

It knows no page, no network and no database: it is told what was asked, what came and what was voted, and refuses with
`NotNow` what is out of place. A named or direct conversation is the same machine with less to hide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum

from webui.records import Answer, Battle, Choice, Picture, Turn, Vote

_SIDES = ("a", "b")


class NotNow(Exception):
    """Something that does not fit the state of the battle; `reason` is a sentence for the page."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Phase(Enum):
    """Where a battle stands."""

    EMPTY = "no prompt yet"
    ANSWERING = "at least one side is at it"
    ANSWERED = "all sides came to an end: the vote is open"
    STOPPED = "the person stopped the answers"
    BROKEN = "a side failed"
    VOTED = "over, and revealed"


@dataclass(slots=True)
class Draft:
    """One side of the turn that goes on; `answer` is set once it has ended."""

    text: str = ""
    reasoning: str = ""
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """What one side of a turn shows now: the prompt, and as much of the answer as may be seen."""

    prompt: str
    pictures: tuple[Picture, ...]
    text: str
    reasoning: str = ""
    answer: Answer | None = None


@dataclass(slots=True)
class LiveBattle:
    """See the module. `record.models` has one model (direct) or two."""

    record: Battle
    turns: list[Turn] = field(default_factory=list[Turn])
    vote: Vote | None = None
    _drafts: list[Draft] = field(default_factory=list[Draft])
    _asked: tuple[str, tuple[Picture, ...], datetime] | None = None

    @property
    def phase(self) -> Phase:
        """Where it stands."""
        if self.vote is not None:
            return Phase.VOTED
        if self._drafts:
            return Phase.ANSWERING
        if not self.turns:
            return Phase.EMPTY
        finishes = {answer.finish for answer in self.turns[-1].answers}
        if "error" in finishes:
            return Phase.BROKEN
        return Phase.STOPPED if "stopped" in finishes else Phase.ANSWERED

    @property
    def revealed(self) -> bool:
        """Whether it may be told who the sides are."""
        return self.record.mode != "battle" or self.vote is not None

    @property
    def may_vote(self) -> bool:
        """Whether the vote is open."""
        return self.record.mode != "direct" and self.phase is Phase.ANSWERED

    def ask(self, prompt: str, pictures: Sequence[Picture], now: datetime) -> None:
        """Begin the next turn. Raises NotNow while one goes on, and when the battle is over."""
        self._check_open()
        if self.phase is Phase.BROKEN:
            raise NotNow("A side has failed: try its answer again, or start anew.")
        self._begin(prompt, tuple(pictures), now)

    def again(self, now: datetime) -> None:
        """Begin the last turn anew, with the same prompt."""
        self.edit(None, now)

    def edit(self, prompt: str | None, now: datetime) -> None:
        """Begin the last turn anew, with another prompt unless it is None."""
        self._check_open()
        if not self.turns:
            raise NotNow("There is nothing to repeat yet.")
        last = self.turns.pop()
        self._begin(last.prompt if prompt is None else prompt, last.pictures, now)

    def add(self, side: int, text: str = "", reasoning: str = "") -> None:
        """More of an answer has come."""
        draft = self._drafts[side]
        draft.text += text
        draft.reasoning += reasoning

    def finish(self, side: int, answer: Answer) -> Turn | None:
        """A side has ended; the turn, if all have.

        The text is what came. Of a stopped answer it is what was to be seen: how far the faster side had come must not
        show when both are stopped.
        """
        text = self._visible(side) if answer.finish == "stopped" else self._drafts[side].text
        self._drafts[side].answer = replace(answer, text=text, reasoning=self._drafts[side].reasoning)
        return self._end_turn() if all(draft.answer for draft in self._drafts) else None

    @property
    def pending(self) -> list[int]:
        """The sides whose answers are still coming."""
        return [side for side, draft in enumerate(self._drafts) if draft.answer is None]

    @property
    def progress(self) -> tuple[int, ...]:
        """Grows with what is to be seen of the turn that goes on; all zero as long as there is nothing."""
        shown = ((exchange.text, exchange.reasoning, exchange.answer) for exchange in map(self._current, self._sides))
        return tuple(len(text) + len(reasoning) + (answer is not None) for text, reasoning, answer in shown)

    def ballot(self, choice: Choice, now: datetime) -> Vote:
        """The vote that a choice would be. It counts only after `close`. Raises NotNow."""
        if self.record.mode == "direct":
            raise NotNow("A chat with one model has no vote.")
        if self.vote is not None:
            if self.vote.choice == choice:
                return self.vote
            raise NotNow("You have voted on this battle already: one vote each.")
        if not self.may_vote:
            raise NotNow("The vote opens when both answers are complete.")
        return Vote(battle=self.record.id, turn=len(self.turns), choice=choice, voter=self.record.voter, cast=now)

    def close(self, vote: Vote) -> None:
        """The vote is kept: the battle is over, and who the sides are may be told."""
        self.vote = vote

    def seen(self, side: int) -> list[Exchange]:
        """All that a side may show now."""
        shown = [
            Exchange(turn.prompt, turn.pictures, turn.answers[side].text, self._reasoning(answer), answer)
            for turn in self.turns
            for answer in [turn.answers[side]]
        ]
        return [*shown, self._current(side)] if self._asked else shown

    def _current(self, side: int) -> Exchange:
        """The turn that goes on. Of a side that has ended only a failure shows, unless there is nothing to hide."""
        assert self._asked is not None
        prompt, pictures, _ = self._asked
        draft = self._drafts[side]
        if self.revealed:
            return Exchange(prompt, pictures, draft.text, draft.reasoning, draft.answer)
        failed = draft.answer if draft.answer and draft.answer.finish == "error" else None
        return Exchange(prompt, pictures, self._visible(side), answer=failed)

    @property
    def _sides(self) -> range:
        return range(len(self._drafts))

    def _reasoning(self, answer: Answer) -> str:
        return answer.reasoning if self.revealed else ""

    def _visible(self, side: int) -> str:
        """The answers of a battle appear at one pace, that of the slower: otherwise their speed would give them away.

        No side shows more characters than each of the others has, unless that one has ended.
        """
        draft = self._drafts[side]
        if self.revealed:
            return draft.text
        limits = [len(each.text) for each in self._drafts if each.answer is None or each.answer.finish == "stopped"]
        return draft.text[: min(limits)] if limits else draft.text

    def _begin(self, prompt: str, pictures: tuple[Picture, ...], now: datetime) -> None:
        self._drafts = [Draft() for _ in self.record.models]
        self._asked = (prompt, pictures, now)

    def _end_turn(self) -> Turn:
        assert self._asked is not None
        prompt, pictures, asked = self._asked
        answers = tuple(self._as_seen(side, draft) for side, draft in enumerate(self._drafts))
        turn = Turn(number=len(self.turns) + 1, prompt=prompt, asked=asked, answers=answers, pictures=pictures)
        self.turns.append(turn)
        self._drafts, self._asked = [], None
        return turn

    def _as_seen(self, side: int, draft: Draft) -> Answer:
        """The answer as it stays. One that was whole but not yet to be seen as such is stopped with the other."""
        assert draft.answer is not None
        seen = self._visible(side)
        return replace(draft.answer, text=seen, finish="stopped") if len(seen) < len(draft.text) else draft.answer

    def _check_open(self) -> None:
        if self.vote is not None:
            raise NotNow("This battle is over: start a new one.")
        if self._drafts:
            raise NotNow("The answers are still coming: wait, or stop them.")


def side_name(side: int) -> str:
    """A or B."""
    return _SIDES[side].upper()
