"""Runs the cases of conformance.json with mesh.client and prints what it sees: see ../README.md.

conformance.py FILE ETCD session|generate CASE...
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from mesh.client import ChoiceFinished, Delta, Event, Finished, GenerateRequest, Limits, MeshClient, MeshError, Started
from mesh.v1.inference_pb2 import GenerateResponse


def wrap(event: Event) -> GenerateResponse:
    """The event as a Generate call brings it."""
    match event:
        case Started():
            return GenerateResponse(started=event)
        case Delta():
            return GenerateResponse(delta=event)
        case ChoiceFinished():
            return GenerateResponse(choice_finished=event)
        case Finished():
            return GenerateResponse(finished=event)


def tell(case: str, **facts: Any) -> None:
    """One line of output."""
    print(json.dumps({"case": case, **facts}), flush=True)


async def run(client: MeshClient, case: dict[str, Any]) -> None:
    """One case from its start to its end."""
    request = json_format.ParseDict(case["request"], GenerateRequest())
    tokens = 0
    try:
        async with aclosing(client.run(request)) as events:
            async for event in events:
                tell(case["name"], event=json_format.MessageToDict(wrap(event), preserving_proto_field_name=True))
                tokens += len(event.token_ids) if isinstance(event, Delta) else 0
                if tokens >= case.get("cancel_after", sys.maxsize):
                    tell(case["name"], end="cancelled")
                    return
        tell(case["name"], end="finished")
    except MeshError as error:
        tell(case["name"], end="error", code=error.code, param=error.param or "", message=error.message)


async def main(etcd: str, transport: str, cases: list[dict[str, Any]]) -> None:
    """One after the other."""
    for case in cases:
        limits = Limits(credit=case.get("credit", 256))
        async with MeshClient(etcd, sessions=transport == "session", limits=limits) as client:
            await run(client, case)


if __name__ == "__main__":
    known = {case["name"]: case for case in json.loads(Path(sys.argv[1]).read_text())["cases"]}
    asyncio.run(main(sys.argv[2], sys.argv[3], [known[name] for name in sys.argv[4:]]))
