"""The arena behind the pages: who battles, what is asked, what is kept, and who may see what of it.

Answers run in tasks of their own, which outlive a page that is reloaded; a battle that nobody watches is stopped after
a while. One process serves all of a visitor's pages: the battles that go on are in its memory.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, Literal

from mesh.log import kv
from webui.battle import LiveBattle, NotNow, Phase
from webui.gateway import Gateway, GatewayError, messages_of
from webui.records import (
    Answer,
    Battle,
    Choice,
    Gate,
    Mode,
    NotAgreed,
    Picture,
    Reaction,
    Refused,
    Sampler,
    Store,
    StoreUnavailable,
    Terms,
    Turn,
    Visitor,
    Vote,
)
from webui.seat import Seat

log = logging.getLogger(__name__)

# Answers that nobody has watched for so long are stopped: the page is closed, not reloaded.
_UNWATCHED_SECONDS: Final = 20.0
# A page is told of news this often at most: more would queue up in the browser.
_TICK_SECONDS: Final = 0.1
# What is kept in memory: so many battles, and those with images up to so many bytes of these.
_MOST_BATTLES: Final = 10_000
_MOST_BYTES: Final = 512 * 1024**2
_MOST_TURNS: Final = 50
# A battle that began so long ago at most goes on after a restart.
_RESUMED: Final = timedelta(hours=1)
_NONE: Final = ""  # instead of a battle: the visitor has left it
_NOT_KEPT = "This could not be kept just now, and nothing is lost: please try again in a moment."


class Arena:
    """See the module. Use it inside `running`, in one event loop. `on_vote` is told of each vote that is kept;
    `most_bytes` of images are kept in memory. Who has not agreed to the `terms` may only look."""

    def __init__(
        self,
        gateway: Gateway,
        store: Store,
        sampler: Sampler,
        gate: Gate,
        parameters: Mapping[str, float],
        on_vote: Callable[[], None],
        *,
        terms: Terms | None = None,
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        self.gateway = gateway
        self.parameters = dict(parameters)
        self.store = store
        self._sampler = sampler
        self._gate = gate
        self._on_vote = on_vote
        self.terms = terms
        self._most_bytes = most_bytes
        self._seats: dict[str, Seat] = {}
        self._current: dict[tuple[str, Mode], str] = {}
        self._group: asyncio.TaskGroup
        self._closing = False

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Answers are got while this is open."""
        async with asyncio.TaskGroup() as self._group:
            try:
                yield
            finally:
                self._closing = True
                for battle in self._seats:
                    self.stop(battle)
        await self.gateway.close()

    def find(self, visitor: Visitor, battle: str | None) -> LiveBattle | None:
        """A battle of the visitor by its id; None if it is not (or no longer) here, or somebody else's."""
        seat = self._seats.get(battle or "")
        return seat.live if seat and seat.live.record.voter == visitor.voter else None

    def current(self, visitor: Visitor, mode: Mode) -> LiveBattle | None:
        """The visitor's battle of that mode that goes on, on whichever page it was begun."""
        return self.find(visitor, self._current.get((visitor.voter, mode)))

    def leave(self, visitor: Visitor, mode: Mode) -> None:
        """The visitor starts anew: the next battle is another one. What was going on is stopped."""
        battle = self._current.get((visitor.voter, mode))
        self._current[visitor.voter, mode] = _NONE
        if battle in self._seats:
            self.stop(battle)

    async def resume(self, visitor: Visitor, mode: Mode) -> None:
        """What the visitor was at before this process began goes on: after a restart, or from another server.

        Raises StoreUnavailable.
        """
        key = (visitor.voter, mode)
        if key in self._current:
            return
        kept = await asyncio.to_thread(self.store.unfinished, visitor.voter, mode, datetime.now(UTC) - _RESUMED)
        if kept is None or key in self._current:
            return
        live = LiveBattle(kept.battle, turns=list(kept.turns))
        self._seats[kept.battle.id] = Seat(live, time.monotonic(), opened=True, kept=len(kept.turns))
        self._current[key] = kept.battle.id
        self._forget()

    async def agree(self, visitor: Visitor) -> None:
        """The visitor agrees to the terms. Raises Refused."""
        if self.terms is None:
            return
        try:
            await asyncio.to_thread(self.store.agree, visitor.voter, self.terms.hash, datetime.now(UTC))
        except StoreUnavailable as error:
            raise Refused(_NOT_KEPT) from error

    async def has_agreed(self, visitor: Visitor) -> bool:
        """Whether the visitor has agreed to the terms as they are now, if there are any. Raises StoreUnavailable."""
        return self.terms is None or await asyncio.to_thread(self.store.agreed, visitor.voter, self.terms.hash)

    async def begin(
        self,
        visitor: Visitor,
        mode: Mode,
        models: Sequence[str] = (),
        *,
        images: bool = False,
        parameters: dict[str, float] | None = None,
    ) -> LiveBattle:
        """A new battle, of drawn models unless they are given. Raises GatewayError, and Refused for want of models."""
        probability = None
        if mode == "battle":
            contenders = await self._contenders(images)
            try:
                pair = await asyncio.to_thread(self._sampler.draw, contenders)
            except ValueError as error:
                raise Refused("There is no pair to draw just now: too many models are taken out of battles.") from error
            models, probability = (pair.a, pair.b), pair.probability
        elif images:
            await self._check_sight(models)
        record = Battle(
            id=secrets.token_urlsafe(16),
            mode=mode,
            models=tuple(models),
            voter=visitor.voter,
            opened=datetime.now(UTC),
            modality="image" if images else "text",
            probability=probability,
            parameters=parameters or {},
        )
        self._seats[record.id] = Seat(LiveBattle(record), time.monotonic())
        self._current[visitor.voter, mode] = record.id
        self._forget()
        return self._seats[record.id].live

    async def admit(self, visitor: Visitor, prompt: str, images: Sequence[bytes]) -> tuple[Picture, ...]:
        """Let a prompt and its images in. Raises Refused and StoreUnavailable."""
        await self._check_agreed(visitor)
        if not prompt.strip():
            raise Refused("Write something first: an image alone is no question." if images else "Write something.")
        await asyncio.to_thread(self._gate.admit_prompt, visitor, prompt)
        pictures = [await asyncio.to_thread(self._gate.admit_image, visitor, image) for image in images]
        await self._gate.moderate([prompt])
        return tuple(pictures)

    async def ask(self, battle: LiveBattle, prompt: str, pictures: Sequence[Picture], *, edit: bool = False) -> None:
        """Have all sides answer; with `edit` instead of the last prompt. Raises NotNow and Refused."""
        if pictures and battle.record.modality == "text":
            raise Refused("This conversation began without images: start a new one to show some.")
        if not edit and len(battle.turns) >= _MOST_TURNS:
            raise Refused(f"A conversation has at most {_MOST_TURNS} turns: start a new one.")
        seat = self._seat(battle)
        now = datetime.now(UTC)
        if edit:
            battle.edit(prompt, now)
        else:
            battle.ask(prompt, pictures, now)
        self._answer(seat)
        if pictures:
            self._forget()

    async def again(self, visitor: Visitor, battle: LiveBattle) -> None:
        """Have all sides answer the last prompt anew, which counts as one more prompt. Raises NotNow and Refused."""
        seat = self._seat(battle)
        await self._check_agreed(visitor)
        await asyncio.to_thread(self._gate.admit_prompt, visitor, "")
        battle.again(datetime.now(UTC))
        self._answer(seat)

    def stop(self, battle: str) -> None:
        """Stop the answers that are still coming, in the engines too."""
        seat = self._seats[battle]
        for side in seat.live.pending:
            seat.tasks[side].cancel()

    async def vote(self, visitor: Visitor, battle: LiveBattle, choice: Choice) -> Vote:
        """Count a vote: when this returns it is kept. Raises NotNow, Refused and VoteRefused."""
        seat = self._seat(battle)
        async with seat.lock:
            vote = battle.ballot(choice, datetime.now(UTC))
            if battle.vote is not None:
                return vote
            try:
                await self._check_agreed(visitor)
                before = await asyncio.to_thread(self.store.votes_of, visitor.voter, vote.cast)
                await asyncio.to_thread(self._gate.admit_vote, visitor, before)
                await self._keep(seat)
                await asyncio.to_thread(self.store.vote, vote)
            except StoreUnavailable as error:
                log.warning("a vote could not be kept", extra=kv(battle=battle.record.id, error=str(error)))
                raise Refused(_NOT_KEPT) from error
            battle.close(vote)
            self._on_vote()
            seat.news()
        return vote

    async def react(self, battle: LiveBattle, turn: int, side: Literal["a", "b"], reaction: Reaction | None) -> None:
        """Keep what somebody thinks of one answer. Raises StoreUnavailable."""
        seat = self._seat(battle)
        async with seat.lock:
            await self._keep(seat)
            await asyncio.to_thread(self.store.react, battle.record.id, turn, side, reaction)

    async def share(self, battle: LiveBattle) -> str:
        """The key of a permalink. Raises NotNow and Refused."""
        if not battle.revealed:
            raise NotNow("A battle can be shared once you have voted.")
        if not battle.turns:
            raise NotNow("There is nothing to share yet.")
        seat = self._seat(battle)
        try:
            async with seat.lock:
                await self._keep(seat)
                return await asyncio.to_thread(self.store.share, battle.record.id)
        except StoreUnavailable as error:
            raise Refused(_NOT_KEPT) from error

    async def watch(self, battle: LiveBattle) -> AsyncIterator[LiveBattle]:
        """The battle each time that there is more to see, until its answers have ended: at once, then at most every
        tenth of a second, and at the end."""
        seat = self._seats.get(battle.record.id)
        if seat is None:
            return
        seat.watchers += 1
        seen: tuple[int, ...] | None = None
        try:
            while battle.phase is Phase.ANSWERING:
                if battle.progress == seen:
                    await seat.changed.wait()
                    continue
                seen = battle.progress
                yield battle
                if any(seen):  # the first words come at once
                    await asyncio.wait(seat.tasks, timeout=_TICK_SECONDS)
            yield battle
        finally:
            seat.watchers -= 1
            if not seat.watchers and battle.phase is Phase.ANSWERING:
                asyncio.get_running_loop().call_later(_UNWATCHED_SECONDS, self._stop_unwatched, seat)

    def _seat(self, battle: LiveBattle) -> Seat:
        """The seat of a battle that was here a moment ago. Raises NotNow."""
        seat = self._seats.get(battle.record.id)
        if seat is None:
            raise NotNow("This conversation is not here any more: start a new one.")
        return seat

    async def _check_agreed(self, visitor: Visitor) -> None:
        if not await self.has_agreed(visitor):
            raise NotAgreed

    def _stop_unwatched(self, seat: Seat) -> None:
        if not seat.watchers and seat.live.record.id in self._seats:
            self.stop(seat.live.record.id)

    async def _contenders(self, images: bool) -> list[str]:
        models = [model.name for model in await self.gateway.models() if model.vision or not images]
        if len(models) < 2:
            what = "that see images " if images else ""
            raise Refused(f"A battle needs two models {what}and the mesh has {len(models)}.")
        return models

    async def _check_sight(self, models: Sequence[str]) -> None:
        blind = [model.name for model in await self.gateway.models() if model.name in models and not model.vision]
        if blind:
            raise Refused(f"{blind[0]} does not see images: choose another model, or ask without one.")

    def _answer(self, seat: Seat) -> None:
        seat.used = time.monotonic()
        seat.kept = min(seat.kept, len(seat.live.turns))
        seat.tasks = []
        for side in range(len(seat.live.record.models)):
            task = self._group.create_task(self._answer_side(seat, side))
            # Not within the task, which may be stopped before its first step.
            task.add_done_callback(partial(self._ended, seat, side))
            seat.tasks.append(task)
        seat.news()

    async def _answer_side(self, seat: Seat, side: int) -> Answer:
        """Get one side's answer into the battle; a failure is an answer too."""
        where = {"battle": seat.live.record.id, "side": side}
        try:
            return await self._receive(seat, side)
        except GatewayError as error:
            log.info("a side failed", extra=kv(**where, code=error.code, error=str(error)))
            return Answer(text="", finish="error", error=error.code)
        except Exception:
            log.exception("a side failed", extra=kv(**where))
            return Answer(text="", finish="error", error="internal_error")

    def _ended(self, seat: Seat, side: int, task: asyncio.Task[Answer]) -> None:
        answer = Answer(text="", finish="stopped") if task.cancelled() else task.result()
        turn = seat.live.finish(side, answer)
        seat.news()
        if turn is not None and not self._closing:
            self._group.create_task(self._keep_quietly(seat))

    async def _receive(self, seat: Seat, side: int) -> Answer:
        live, record = seat.live, seat.live.record
        *before, now = live.seen(side)
        messages = messages_of(before, now.prompt, now.pictures)
        parameters = {**self.parameters, **record.parameters}
        async with aclosing(self.gateway.answer(record.models[side], messages, parameters)) as pieces:
            async for piece in pieces:
                if piece.answer is not None:
                    return piece.answer
                live.add(side, piece.text, piece.reasoning)
                seat.news()
        raise GatewayError("gateway_error", "the answer ended without its end")

    async def _keep_quietly(self, seat: Seat) -> None:
        """Keep what there is; what cannot be kept now is kept with the vote."""
        async with seat.lock:
            try:
                await self._keep(seat)
            except StoreUnavailable as error:
                log.warning("a turn could not be kept", extra=kv(battle=seat.live.record.id, error=str(error)))

    async def _keep(self, seat: Seat) -> None:
        record = seat.live.record
        if not seat.opened:
            await asyncio.to_thread(self.store.open_battle, record)
            seat.opened = True
        while seat.kept < len(seat.live.turns):
            turn: Turn = seat.live.turns[seat.kept]
            flags = await self._gate.inspect(record, turn)
            await asyncio.to_thread(self.store.save_turn, record.id, turn, flags)
            seat.kept = turn.number

    def _forget(self) -> None:
        """Let go of the battles that were used least lately, but of none that goes on."""
        idle = [seat for seat in self._seats.values() if seat.live.phase is not Phase.ANSWERING]
        idle.sort(key=lambda seat: seat.used)
        gone = idle[: _MOST_BATTLES // 10] if len(self._seats) > _MOST_BATTLES else []
        too_many = sum(seat.size for seat in self._seats.values()) - self._most_bytes
        for seat in idle:
            if too_many <= 0:
                break
            if seat.size:
                gone.append(seat)
                too_many -= seat.size
        for seat in gone:
            self._seats.pop(seat.live.record.id, None)
        if gone:
            self._current = {key: battle for key, battle in self._current.items() if battle in self._seats}
