"""The clients' host: reads commands as lines of JSON, and tells what the gateways answered in the same way.

    {"do": "stream", "count": 4}   streams answers, half of them at each gateway, going on at the other one when a
                                   connection breaks; {"begun": true} once all have begun, {"answers": [...]} at the end
    {"do": "ask"}                  a short request to each gateway, or to the other one if it cannot be reached
    {"do": "count"}                the live workers that each gateway counts

An answer is its text, or a text that begins with "error: ".
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from tests.harness import read_metric

# Tokens come every 10 ms; a host without power says nothing.
_SILENCE = httpx.Timeout(3.0, connect=1.0)
_ATTEMPTS = 8


def chat(number: int) -> dict[str, Any]:
    """The body of a request; the same number gets the same answer."""
    return {"model": "scripted", "messages": [{"role": "user", "content": f"Question {number}"}], "seed": number}


async def stream(http: httpx.AsyncClient, gateways: Sequence[str], number: int, on_text: Callable[[], None]) -> str:
    """The whole text of a streamed answer, over as many connections as it takes (see docs/operations.md)."""
    headers, text = {"x-mesh-reconnect": "1"}, ""
    for attempt in range(_ATTEMPTS):
        url = gateways[(number + attempt) % len(gateways)] + "/v1/chat/completions"
        try:
            async with http.stream("POST", url, json={**chat(number), "stream": True}, headers=headers) as response:
                event: dict[str, str] = {}
                async for line in response.aiter_lines():
                    if line:
                        name, _, value = line.partition(": ")
                        event[name] = value
                    elif event.get("data") == "[DONE]":
                        return text
                    elif "id" in event:
                        headers["Last-Event-ID"] = event["id"]
                        text += json.loads(event["data"])["choices"][0]["delta"].get("content") or ""
                        on_text()
                        event = {}
                    elif "data" in event:
                        return f"error: {event['data']}"
                if response.status_code == 204:
                    return text
                if response.is_error:
                    return f"error: status {response.status_code} after {len(text)} characters"
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.1)
    return f"error: no end after {_ATTEMPTS} connections"


async def ask(http: httpx.AsyncClient, gateways: Sequence[str], number: int) -> str:
    """A short answer."""
    for attempt in range(2):
        url = gateways[(number + attempt) % len(gateways)] + "/v1/chat/completions"
        try:
            response = await http.post(
                url, json={**chat(number), "max_tokens": 3}, timeout=httpx.Timeout(10, connect=1)
            )
        except httpx.ConnectTimeout:
            continue
        except httpx.TransportError as error:
            return f"error: {type(error).__name__}"
        if response.is_error:
            return f"error: {response.text}"
        return str(response.json()["choices"][0]["message"]["content"])
    return "error: no gateway"


async def count(http: httpx.AsyncClient, gateway: str) -> float:
    """The live workers that a gateway counts; -1 if it does not answer."""
    try:
        page = (await http.get(f"{gateway}/metrics", timeout=1)).text
    except httpx.TransportError:
        return -1
    return read_metric(page, "mesh_gateway_workers", state="ready")


async def stream_all(http: httpx.AsyncClient, gateways: Sequence[str], number: int) -> list[str]:
    """Stream so many answers at once, and tell when all have begun."""
    begun: set[int] = set()

    def on_text(which: int) -> None:
        if which not in begun:
            begun.add(which)
            if len(begun) == number:
                tell(begun=True)

    return await asyncio.gather(
        *(stream(http, gateways, each, lambda each=each: on_text(each)) for each in range(number))
    )


def tell(**facts: Any) -> None:
    """One line."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


async def main(gateways: Sequence[str]) -> None:
    """Serve until the end of standard input. Each command has connections of its own."""
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        async with httpx.AsyncClient(timeout=_SILENCE, trust_env=False) as http:
            if request["do"] == "stream":
                tell(answers=await stream_all(http, gateways, request["count"]))
            elif request["do"] == "ask":
                tell(answers=await asyncio.gather(*(ask(http, gateways, each) for each in range(len(gateways)))))
            else:
                tell(counts=await asyncio.gather(*(count(http, gateway) for gateway in gateways)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
