"""A gateway dies; the client goes to the other one."""

from __future__ import annotations

import asyncio

from benchmarks.faults.stage import Stage, scenario
from benchmarks.systems.answer import Answer, ask
from benchmarks.systems.system import Setup


@scenario(lambda: Setup(gateways=2))
async def gateway_killed(stage: Stage) -> None:
    """The gateway gets SIGKILL in mid-answer. The client asks another gateway with the id of the last event that it
    got, as browsers do, and gets the rest once."""
    system, after = stage.system, stage.plan.tokens // 2

    async def on_token(count: int) -> None:
        if count == after:
            await asyncio.to_thread(system.gateways[0].kill)

    answer = await stage.ask(on_token)
    if answer.last_id:
        answer = await _reconnected(stage, answer)
    elif answer.error:
        answer.error += "; events have no id to go on from"
    stage.take(answer)


async def _reconnected(stage: Stage, answer: Answer) -> Answer:
    body = stage.system.body(max_tokens=stage.plan.tokens)
    headers = {"last-event-id": answer.last_id}
    return await ask(stage.system.url(1), body, patience=stage.plan.patience, headers=headers, before=answer)
