"""What an arena keeps in memory: battles with images, only so many bytes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.v1 import inference_pb2 as pb
from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.gateway_worker import CAPABILITIES, FakeWorker
from tests.harness import eventually
from webui.arena import Arena
from webui.battle import LiveBattle, NotNow, Phase
from webui.gateway import Gateway
from webui.records import Picture, Visitor
from webui.sampling import PairSampler
from webui.store.store import open_store
from webui.trust.gate import ArenaGate

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


async def test_battles_with_images_give_way_to_newer_ones(tmp_path: Path) -> None:
    worker = FakeWorker("a", pause=0, capabilities=(*CAPABILITIES, pb.CAPABILITY_VISION))
    store = open_store(tmp_path / "arena.db")
    async with worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        arena = Arena(
            Gateway(gateway.url, "none"), store, PairSampler(), ArenaGate(), {}, lambda: None, most_bytes=3000
        )
        async with arena.running():
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
    store.close()
