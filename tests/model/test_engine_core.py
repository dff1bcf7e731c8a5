"""The parts of the engine's thread by themselves: deadlines that nobody waits for any more, an end that hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

import torch

from mesh.engine.base import Sampling
from mesh.engine.sampler import Sampler
from mesh.engine.transformers.core import Core
from mesh.engine.transformers.runners.runner import Runner
from mesh.engine.transformers.scheduling.blocks import BlockManager
from mesh.engine.transformers.scheduling.scheduler import Limits, Scheduler
from mesh.engine.transformers.scheduling.sequence import Batch, Row, Work
from mesh.engine.transformers.thread import EngineThread, beside
from mesh.errors import ErrorKind, MeshError
from tests.model.tiny import VOCAB


class Blank(Runner):
    """Finds all tokens equally likely."""

    execution = "packed"
    shares_prefix = False
    chunks = True

    def forward(self, batch: Batch) -> torch.Tensor:
        return torch.zeros((len(batch.sampled), VOCAB))

    def release(self, row: Row) -> None:
        pass

    def wipe(self, pages: Sequence[int]) -> None:
        pass

    def copy(self, pages: Mapping[int, int]) -> None:
        pass

    def reset(self) -> None:
        pass


def make_core() -> Core:
    runner = Blank()
    scheduler = Scheduler(Limits(4, 64), BlockManager(64, 16), runner.release)
    return Core(runner, Sampler(VOCAB, torch.device("cpu"), ()), scheduler)


def make_work(key: int, deadline: float) -> Work:
    work = Work(key, key, Sampling(seed=1), [1, 2, 3], deadline=deadline)
    work.rows.append(Row(work, 0, [1, 2, 3], 50, 3, frozenset()))
    return work


def test_deadlines_of_ended_requests_are_forgotten() -> None:
    core, now = make_core(), time.monotonic()
    core.add(make_work(1, now + 500))
    for key in range(2, 500):
        core.add(make_work(key, now + 1000 + key))
        core.cancel(key)
    assert core.deadlines < 30
    core.cancel(1)
    core.step()
    assert core.deadlines == 0
    assert core.patience is None


def test_the_wait_for_a_thread_that_hangs_has_a_limit() -> None:
    gate = threading.Event()

    def build() -> Core:
        gate.wait()
        raise MeshError(ErrorKind.ENGINE_FAILED, "never mind")

    thread = EngineThread(build, lambda report: None)
    assert thread.join(0.01)  # it was never started
    thread.start()
    assert not thread.join(0.01)
    gate.set()
    assert thread.join(10)


async def test_work_beside_the_engine_takes_one_core() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert await beside(torch.get_num_threads) == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
