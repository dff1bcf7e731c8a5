"""What is done to a worker in the middle of an answer, and the scene on which it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.answers import Answer, Body, ask
from tests.harness import Mesh, Worker, eventually

# Seconds without a step after which the gateway takes a worker for frozen; short, so that drills are.
STALL = 0.3
# The victim fails more often than a gateway would look on.
GATEWAY = (
    "--zone",
    "front",
    "--stall-floor",
    str(STALL),
    "--stall-factor",
    "5",
    "--max-attempts",
    "10",
    "--eject-after",
    "0",
)


def kill(worker: Worker) -> None:
    """kill -9."""
    worker.kill()


def freeze(worker: Worker) -> None:
    """SIGSTOP; it is woken when its streams have moved, see Strike."""
    worker.freeze()


def drain(worker: Worker) -> None:
    """SIGTERM: it hands its streams over and ends."""
    worker.terminate()


Fault = Callable[[Worker], None]
FAULTS: tuple[Fault, ...] = (kill, freeze, drain)


@dataclass
class Scene:
    """A victim in the gateway's own zone, which therefore gets every new stream, and a survivor in another one."""

    mesh: Mesh
    victim: Worker
    undisturbed: dict[str, Answer] = field(default_factory=dict[str, Answer])
    started: int = 1

    @classmethod
    def build(cls, mesh: Mesh) -> Scene:
        """Start both workers on a mesh without any."""
        survivor = mesh.start_worker("--zone", "back", name="survivor")
        victim = mesh.start_worker("--zone", "front", name="victim-0")
        survivor.wait_ready()
        victim.wait_ready()
        return cls(mesh, victim)

    @property
    def url(self) -> str:
        """The gateway."""
        return self.mesh.gateway.url

    async def ready(self) -> None:
        """Wait until the gateway can use both, and nobody else."""
        await asyncio.to_thread(self.victim.wait_ready)
        await eventually(lambda: self.mesh.gateway.metric("mesh_gateway_workers", state="ready") == 2, within=15)

    async def learn(self, bodies: Mapping[str, Body]) -> None:
        """Ask everything once, undisturbed."""
        for name, body in bodies.items():
            if name not in self.undisturbed:
                self.undisturbed[name] = await ask(self.url, body)

    def attempts(self) -> float:
        """How many attempts the gateway has made and ended so far: one for each request, and one more for each move."""
        return self.mesh.gateway.metric("mesh_gateway_attempts_total")

    def left(self) -> float:
        """How many attempts the gateway has given up so far because a worker stood still."""
        metric = self.mesh.gateway.metric
        return sum(metric("mesh_gateway_attempts_total", outcome=each) for each in ("stalled", "silent", "forgotten"))

    def replace_victim(self) -> None:
        """Start the next victim; it is ready by the next drill."""
        self.victim = self.mesh.start_worker("--zone", "front", name=f"victim-{self.started}")
        self.started += 1


class Strike:
    """One fault at one moment: call `at_once` at that moment, `token` at every token, `over` when all are answered.

    A frozen victim may go on once `moves` streams have been left, and then has late events to send.
    """

    def __init__(self, scene: Scene, fault: Fault, moves: int) -> None:
        self.scene = scene
        self.fault = fault
        self.victim = scene.victim
        self.struck = False
        self._thawed = False
        self._moves = scene.left() + moves

    def at_once(self) -> None:
        """Do it, unless it is done."""
        if not self.struck:
            self.struck = True
            self.fault(self.victim)
            if self.fault is not freeze:
                self.scene.replace_victim()

    def token(self) -> None:
        """A token has arrived, perhaps from the survivor."""
        if self.fault is freeze and self.struck and not self._thawed and self.scene.left() >= self._moves:
            self._thaw()

    async def over(self) -> None:
        """All are answered: the victim must be gone, or have forgotten all its streams."""
        self.at_once()
        if self.fault is freeze:
            self._thaw()
            await eventually(lambda: self.victim.stats().live_streams == 0)
        elif self.fault is drain:
            assert await asyncio.to_thread(self.victim.wait_exit) == 0

    def _thaw(self) -> None:
        if not self._thawed:
            self._thawed = True
            self.victim.thaw()


def late_stop(text: str) -> str:
    """A stop string in the latter half of a text, over the end of a word, so that it spans tokens."""
    places = (place for place in range(len(text) * 3 // 5, len(text) - 5) if " " in text[place + 1 : place + 4])
    return next(text[place : place + 5] for place in places if text.index(text[place : place + 5]) == place)


def check_same(answers: Mapping[str, Answer], undisturbed: Mapping[str, Answer]) -> None:
    """The same bytes, finish reasons, log probabilities and usage; the same chunks in the same order."""
    for name, answer in answers.items():
        assert answer.seen == undisturbed[name].seen, name
        for choice, values in undisturbed[name].logprobs.items():
            assert answer.logprobs[choice] == pytest.approx(values, abs=1e-3), name
        assert by_choice(answer) == by_choice(undisturbed[name]), name


def by_choice(answer: Answer) -> dict[int, list[Body]]:
    """The chunks of each choice in order. How those of several choices interleave is up to the steps that made them."""
    chunks: dict[int, list[Body]] = {}
    for chunk in answer.chunks:
        for choice in chunk["choices"]:
            chunks.setdefault(choice["index"], []).append(choice)
    return chunks


def scene_args(folder: Path, worker_args: tuple[str, ...], model: str) -> Mesh:
    """The mesh of a scene, without workers."""
    return Mesh(folder, workers=0, worker_args=worker_args, gateway_args=GATEWAY, model=model)
