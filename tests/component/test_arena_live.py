"""The arena behind the pages, before a gateway: what it keeps in memory, and what counts as a prompt."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mesh.v1 import inference_pb2 as pb
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.gateway_worker import CAPABILITIES, FakeWorker
from tests.harness import eventually
from webui.arena import Arena
from webui.battle import LiveBattle, NotNow, Phase
from webui.gateway import Gateway
from webui.records import NotAgreed, Picture, Refused, Terms, Visitor
from webui.sampling import PairSampler
from webui.store.store import open_store
from webui.trust.gate import ArenaGate, Limits

PNG = b"\x89PNG\r\n\x1a\n"
VISITOR = Visitor("v", "")


def picture(number: int) -> Picture:
    return Picture(key=f"{number:064d}", data=PNG + bytes(1000 - len(PNG)), media_type="image/png", width=1, height=1)


async def chat(arena: Arena, number: int | None) -> LiveBattle:
    """A chat with one answer, about an image or none."""
    battle = await arena.begin(VISITOR, "direct", ["m"], images=number is not None)
    await arena.ask(battle, "what is it?", [] if number is None else [picture(number)])
    await eventually(lambda: battle.phase is Phase.ANSWERED)
    return battle


@asynccontextmanager
async def running(folder: Path, limits: Limits | None = None, **settings: Any) -> AsyncGenerator[Arena]:
    """An arena of one model, which sees."""
    worker = FakeWorker("a", pause=0, capabilities=(*CAPABILITIES, pb.CAPABILITY_VISION))
    store = open_store(folder / "arena.db")
    async with worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        client = Gateway(gateway.url, "none")
        arena = Arena(client, store, PairSampler(), ArenaGate(limits), {}, lambda: None, **settings)
        async with arena.running():
            yield arena
    store.close()


async def test_battles_with_images_give_way_to_newer_ones(tmp_path: Path) -> None:
    async with running(tmp_path, most_bytes=3000) as arena:
        words = await chat(arena, None)
        shown = [await chat(arena, number) for number in range(5)]
        there = [arena.find(VISITOR, each.record.id) is not None for each in (words, *shown)]
        assert there == [True, False, True, True, True, True]
        with pytest.raises(NotNow, match="not here any more"):
            await arena.ask(shown[0], "and now?", [])
        assert shown[0].phase is Phase.ANSWERED
        await arena.ask(shown[4], "and now?", [])
        kept = [each async for each in arena.watch(shown[4])][-1]
        assert [turn.number for turn in kept.turns] == [1, 2]


async def test_an_answer_that_is_asked_for_again_counts_as_a_prompt(tmp_path: Path) -> None:
    async with running(tmp_path, Limits(prompts_per_minute=1, prompt_burst=2)) as arena:
        battle = await chat(arena, None)
        for _ in range(2):
            await arena.again(VISITOR, battle)
            await eventually(lambda: battle.phase is Phase.ANSWERED)
        with pytest.raises(Refused, match="1 prompts a minute"):
            await arena.again(VISITOR, battle)
        assert battle.phase is Phase.ANSWERED


async def test_nothing_is_asked_or_voted_by_who_has_not_agreed_to_the_terms_as_they_are(tmp_path: Path) -> None:
    async with running(tmp_path, terms=Terms("Be kind.")) as arena:
        with pytest.raises(NotAgreed, match="read the terms first"):
            await arena.admit(VISITOR, "hello", [])
        await arena.agree(VISITOR)
        await arena.admit(VISITOR, "hello", [])
        with pytest.raises(NotAgreed):
            await arena.admit(Visitor("w", ""), "hello", [])
        battle = await arena.begin(VISITOR, "named", ["m", "m"])
        await arena.ask(battle, "hello", [])
        await eventually(lambda: battle.phase is Phase.ANSWERED)
        arena.terms = Terms("Be kinder.")
        for refused in (arena.vote(VISITOR, battle, "a"), arena.again(VISITOR, battle)):
            with pytest.raises(NotAgreed):
                await refused
        assert battle.vote is None
        await arena.agree(VISITOR)
        await arena.vote(VISITOR, battle, "a")
        assert battle.phase is Phase.VOTED


async def test_a_battle_goes_on_after_a_restart_until_it_has_its_vote_or_was_left(tmp_path: Path) -> None:
    async with running(tmp_path) as arena:
        battle = await arena.begin(VISITOR, "named", ["m", "m"])
        await arena.ask(battle, "hello", [])
        await eventually(lambda: battle.phase is Phase.ANSWERED)
    async with running(tmp_path) as arena:
        await arena.resume(Visitor("somebody else", ""), "named")
        await arena.resume(VISITOR, "direct")
        assert arena.find(VISITOR, battle.record.id) is None
        await arena.resume(VISITOR, "named")
        again = arena.current(VISITOR, "named")
        assert again is not None
        assert again.turns == battle.turns
        await arena.ask(again, "and now?", [])
        await eventually(lambda: again.phase is Phase.ANSWERED)
        await arena.vote(VISITOR, again, "b")
        await arena.begin(VISITOR, "named", ["m", "m"])
        arena.leave(VISITOR, "named")
        await arena.resume(VISITOR, "named")
        assert arena.current(VISITOR, "named") is None
    async with running(tmp_path) as arena:
        await arena.resume(VISITOR, "named")
        assert arena.current(VISITOR, "named") is None
