"""A worker logs one line for each request, with the request's id, however it ended."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.engine.scripted import ScriptedEngine, ScriptedOptions
from mesh.v1 import inference_pb2 as pb
from tests.component.worker_rig import serving
from tests.harness import eventually


def lines(caplog: pytest.LogCaptureFixture) -> dict[str, dict[str, Any]]:
    """The canonical lines by request id; a second line of one request fails."""
    found: dict[str, dict[str, Any]] = {}
    for record in caplog.records:
        if record.getMessage() == "request":
            facts: dict[str, Any] = getattr(record, "facts")  # noqa: B009
            assert facts["request_id"] not in found
            found[facts["request_id"]] = facts
    return found


async def test_one_line_a_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    options = ScriptedOptions(tokens=3, step_interval=0.001)
    async with serving(ScriptedEngine(options)) as rig, rig.session() as session:
        await session.start(1, pb.GenerateRequest(request_id="ends", text="a", attempt=2))
        await session.start(2, pb.GenerateRequest(request_id="refused", text="a", model="nope"))
        await eventually(lambda: len(lines(caplog)) == 2)
        await session.start(3, pb.GenerateRequest(request_id="hung-up", text="a"), credit=1)
        await session.cancel(3)
        await eventually(lambda: len(lines(caplog)) == 3)
    found = lines(caplog)
    ends = found["ends"]
    assert (ends["outcome"], ends["attempt"], ends["model"]) == ("finished", 2, options.name)
    assert (ends["completion_tokens"], ends["prompt_tokens"] > 0) == (4, True)  # its end counts
    assert ends["seconds"] >= ends["decode"] >= 0
    assert (found["refused"]["outcome"], found["refused"]["error"]) == ("failed", "model_not_found")
    assert found["hung-up"]["outcome"] == "cancelled"
