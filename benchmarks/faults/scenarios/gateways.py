"""A gateway dies; the client goes to the other one."""

from __future__ import annotations

import asyncio

from benchmarks.faults.stage import Stage, scenario
from benchmarks.systems.answer import ask
from benchmarks.systems.system import Setup


@scenario(lambda: Setup(gateways=2))
async def gateway_killed(stage: Stage) -> None:
    """The gateway gets SIGKILL in mid-answer. The client, which had said that it may come back, asks another gateway
    with the id of the last event that it got, as browsers do, and gets the rest once."""
    system, after = stage.system, stage.plan.tokens // 2
    body = system.body(max_tokens=stage.plan.tokens)

    async def on_token(count: int) -> None:
        if count == after:
            await asyncio.to_thread(system.gateways[0].kill)

    wish = {"x-mesh-reconnect": "1"}
    answer = await ask(system.url(0), body, on_token, patience=stage.plan.patience, headers=wish)
    if answer.last_id:
        again = wish | {"last-event-id": answer.last_id}
        answer = await ask(system.url(1), body, patience=stage.plan.patience, headers=again, before=answer)
    elif answer.error:
        answer.error += "; events have no id to go on from"
    stage.take(answer)
