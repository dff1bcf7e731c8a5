"""A worker lives, and answers one request wrongly: the ways in which a worker can fail on the wire."""

from __future__ import annotations

from benchmarks.faults.stage import Stage, scenario
from benchmarks.systems.system import Fault, Setup

_SLOW = 3.0


def _faulty() -> Setup:
    return Setup(between="faults")


async def _met(stage: Stage, *faults: Fault) -> None:
    """Ask once with each fault, and score the answer."""
    for fault in faults:
        stage.system.arm(fault)
        answer = await stage.ask()
        if not stage.system.disarm():
            raise RuntimeError(f"no request met the fault {fault}")
        stage.take(answer)
        await stage.system.renew()


def _places(stage: Stage) -> tuple[int, int, int]:
    """Before the first token, after some, before the last."""
    return 0, stage.plan.tokens // 2, stage.plan.tokens - 1


@scenario(_faulty)
async def refused_as_exhausted(stage: Stage) -> None:
    """The worker refuses with RESOURCE_EXHAUSTED. Another one answers."""
    await _met(stage, Fault("exhausted"))


@scenario(_faulty)
async def refused_as_unavailable(stage: Stage) -> None:
    """The worker refuses with UNAVAILABLE. Another one answers."""
    await _met(stage, Fault("unavailable"))


@scenario(_faulty)
async def refused_as_internal(stage: Stage) -> None:
    """The worker fails with INTERNAL before the first token. Another one answers."""
    await _met(stage, Fault("internal"))


@scenario(_faulty)
async def slow_first_token(stage: Stage) -> None:
    """The first token takes 3 s. The user waits for it, or for another worker, and sees the whole answer."""
    await _met(stage, Fault("slow_first_token", seconds=_SLOW))


@scenario(_faulty)
async def stalled(stage: Stage) -> None:
    """A stream gets nothing more while its worker is well: before the first token, after some, before the last. The
    user sees the whole answer, later by the time that it takes to notice."""
    await _met(stage, *(Fault("stall", after) for after in _places(stage)))


@scenario(_faulty)
async def cut(stage: Stage) -> None:
    """The stream breaks: before the first token, after some, before the last. The user sees the whole answer."""
    await _met(stage, *(Fault("cut", after) for after in _places(stage)))


@scenario(_faulty)
async def malformed_message(stage: Stage) -> None:
    """A message in mid-stream cannot be read, or speaks of a choice that nobody asked for. The user sees the whole
    answer and nothing of the nonsense."""
    await _met(stage, *(Fault(kind, stage.plan.tokens // 2) for kind in ("garbage", "nonsense")))


@scenario(_faulty)
async def duplicate_message(stage: Stage) -> None:
    """A message comes twice. The user sees no word twice."""
    await _met(stage, Fault("duplicate", stage.plan.tokens // 2))


@scenario(_faulty)
async def messages_out_of_order(stage: Stage) -> None:
    """Two messages change places. The user sees the words in order."""
    await _met(stage, Fault("out_of_order", stage.plan.tokens // 2))


@scenario(_faulty)
async def no_finish(stage: Stage) -> None:
    """The answer ends without its last message. The user sees the whole answer with its end."""
    await _met(stage, Fault("no_finish"))


@scenario(_faulty)
async def wrong_usage(stage: Stage) -> None:
    """The worker counts seven tokens too many. The user is told, and pays, what was sent."""
    await _met(stage, Fault("wrong_usage"))


@scenario(_faulty)
async def wrong_model(stage: Stage) -> None:
    """The worker answers with another model than it was found with. The user sees no word of that model."""
    await _met(stage, Fault("wrong_model"))
