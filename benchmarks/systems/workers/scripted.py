"""What the scripted workers of all peers share: the pace, the words, and the faults. Standard library only.

A fault is armed by a file in the folder that all workers share; the first request that meets it takes it, so that it
happens once, wherever the gateway sends that request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

# A request of this temperature kills every worker that begins to answer it; no gateway changes a temperature.
POISON = 0.125
REFUSALS = ("exhausted", "unavailable", "internal")


@dataclass(frozen=True)
class Item:
    """What a worker sends next: a token, a message that makes no sense, or the end with its count of tokens."""

    kind: Literal["token", "garbage", "end"]
    place: int = 0
    completion_tokens: int = 0
    # The answer of another model.
    wrong: bool = False


class Refused(Exception):
    """The worker refuses the request; one of REFUSALS."""


class Cut(Exception):
    """The worker breaks the connection now."""


def options() -> argparse.Namespace:
    """The command line of every worker."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--folder", type=Path, required=True, help="shared by the workers of one gateway")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--advertise", type=int, required=True, help="the port at which the gateway finds it")
    parser.add_argument("--model", required=True, help="the served name")
    parser.add_argument("--model-folder", default="", help="tokenizer and configuration")
    parser.add_argument("--registry", default="", help="where the worker announces itself")
    parser.add_argument("--step", type=float, required=True, help="seconds per token")
    parser.add_argument("--prefill", type=float, required=True, help="seconds before the first token")
    return parser.parse_args()


class Scripted:
    """Answers at a pace, all requests in step. The token at a place is a pure function of the place."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.running = 0
        self._name: str = options.name
        self._folder: Path = options.folder
        self._step: float = options.step
        self._prefill: float = options.prefill
        self._stepped = asyncio.Event()
        self._steps: asyncio.Task[None] | None = None

    async def answer(self, temperature: float, begin: int, count: int) -> AsyncGenerator[Item]:
        """The items of one answer, from a place on. Raises Refused and Cut."""
        if self._steps is None:
            self._steps = asyncio.create_task(self._make_steps())
        fault = self._take_fault()
        (self._folder / "serving").write_text(self._name)
        self._count(1)
        try:
            if fault.get("kind") in REFUSALS:
                raise Refused(fault["kind"])
            async for item in self._items(begin, count, fault, poisoned=temperature == POISON):
                yield item
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self.running += change
        (self._folder / f"rows-{self._name}").write_text(str(self.running))

    async def _items(self, begin: int, count: int, fault: dict[str, Any], *, poisoned: bool) -> AsyncIterator[Item]:
        kind: str = fault.get("kind", "")
        await asyncio.sleep(self._prefill + (fault["seconds"] if kind == "slow_first_token" else 0.0))
        after: int = min(fault.get("after", 0), count - 1)
        swapped = {after: after + 1, after + 1: after} if kind == "out_of_order" and after + 1 < count else {}
        for done in range(count):
            place = begin + swapped.get(done, done)
            if poisoned and done:
                os.kill(os.getpid(), signal.SIGKILL)
            if done == after:
                if kind == "stall":
                    await asyncio.Event().wait()
                elif kind == "cut":
                    raise Cut
                elif kind in ("garbage", "nonsense"):
                    yield Item("garbage")
                elif kind == "duplicate" and done:
                    yield Item("token", place - 1)
            yield Item("token", place, wrong=kind == "wrong_model")
            await self._next_step()
        if kind != "no_finish":
            yield Item("end", completion_tokens=count + (7 if kind == "wrong_usage" else 0))

    def _take_fault(self) -> dict[str, Any]:
        try:
            taken = (self._folder / "armed").rename(self._folder / f"taken-{self._name}")
        except FileNotFoundError:
            return {}
        return json.loads(taken.read_text())

    async def _next_step(self) -> None:
        if self._step:
            await self._stepped.wait()
        else:
            await asyncio.sleep(0)

    async def _make_steps(self) -> None:
        """One step for all, as an engine makes them."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while self._step:
            due = max(due + self._step, loop.time())
            await asyncio.sleep(due - loop.time())
            self._stepped.set()
            self._stepped = asyncio.Event()


def word_ids(model_folder: str) -> list[int]:
    """Tokens of a byte-level tokenizer that are a word with the space before it."""
    vocabulary: dict[str, int] = json.loads(Path(model_folder, "tokenizer.json").read_text())["model"]["vocab"]
    return sorted(number for text, number in vocabulary.items() if text[0] == "Ġ" and text[1:].isalpha())
