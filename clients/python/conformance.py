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


async def main() -> None:
    """All cases that are named, one after the other."""
    file, etcd, transport, *names = sys.argv[1:]
    cases = {case["name"]: case for case in json.loads(Path(file).read_text())["cases"]}
    for name in names:
        limits = Limits(credit=cases[name].get("credit", 256))
        async with MeshClient(etcd, sessions=transport == "session", limits=limits) as client:
            await run(client, cases[name])


asyncio.run(main())
