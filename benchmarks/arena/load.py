"""Battles at once: visitors who speak Gradio's queue as a browser does, against two scripted models.

The lag of an update is how late it shows its last word, if the first words of its battle came in time and each of the
others a token's time after the one before. Pages are updated ten times a second, so that a tenth of a second is none.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import httpx
import numpy as np
from gradio_client.utils import apply_diff  # pyright: ignore[reportUnknownVariableType]  # its types are missing

from benchmarks.processes import Process, free_port, python

MODELS: Final = ("scripted-a", "scripted-b")
PACE: Final = 50  # tokens a second of each side


@dataclass
class Seen:
    """What one visitor saw: words of both sides after so many seconds, and in the end."""

    updates: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    words: tuple[int, ...] = ()

    def lags(self, seconds: float) -> list[float]:
        """Of each update, in seconds, of answers that take so long: their words come evenly, but for a few of two."""
        last = self.updates[-1][1] if self.updates else 0
        late = [at - words / last * seconds for at, words in self.updates]
        return [each - min(late) for each in late]


@dataclass(frozen=True, slots=True)
class Load:
    """What all saw: battles that were whole, updates, lags in seconds at 50 % and 95 %, and CPU seconds of the pages'
    process for each battle."""

    battles: int
    whole: int
    updates: int
    median: float
    late: float
    cpu: float


class _Visitor:
    """One page that is open."""

    def __init__(self, http: httpx.AsyncClient, handlers: list[dict[str, Any]], box: int) -> None:
        self._http = http
        self._session = secrets.token_hex(6)
        self._send = next(each for each in handlers if [box, "submit"] in each["targets"])
        self._follow = next(each for each in handlers if each.get("trigger_after") == self._send["id"])

    async def battle(self, prompt: str) -> Seen:
        """Ask, and look on until both have answered."""
        async for _ in self._event(self._send, [prompt]):
            pass
        seen, begun = Seen(), time.perf_counter()
        shown: list[Any] = []
        async for message in self._event(self._follow, []):
            data = message.get("output", {}).get("data", [])
            if message["msg"] == "process_generating" and shown:
                shown = [apply_diff(old, change) for old, change in zip(shown, data, strict=True)]
            elif data:
                shown = data
            words = tuple(_words(chat) for chat in shown)
            if words and min(words) and (not seen.updates or min(words) > seen.updates[-1][1]):
                seen.updates.append((time.perf_counter() - begun, min(words)))
            seen.words = words or seen.words
        return seen

    async def _event(self, handler: dict[str, Any], given: list[Any]) -> AsyncIterator[dict[str, Any]]:
        """What comes of an event, until it is complete."""
        data = (given + [None] * len(handler["inputs"]))[: len(handler["inputs"])]
        body = {"data": data, "fn_index": handler["id"], "session_hash": self._session, "trigger_id": None}
        joined = await self._http.post("/gradio_api/queue/join", json=body)
        own = joined.raise_for_status().json()["event_id"]
        listening = self._http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self._session})
        async with listening as stream:
            async for line in stream.aiter_lines():
                message: dict[str, Any] = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                if message.get("event_id") != own:
                    continue
                yield message
                if message["msg"] == "process_completed":
                    return


def _words(chat: list[dict[str, Any]]) -> int:
    """Of the last answer that a Chatbot shows."""
    said: list[Any] = [each["content"] for each in chat if each["role"] == "assistant"]
    if not said:
        return 0
    parts = cast("list[dict[str, Any]]", said[-1] if isinstance(said[-1], list) else [{"text": said[-1]}])
    return sum(len(str(part.get("text", "")).split()) for part in parts)


async def _visit(url: str, config: dict[str, Any], number: int) -> Seen:
    # The first of the two pages with such a box is that of battles.
    named = {each["id"]: str(each["props"].get("placeholder")) for each in config["components"]}
    box = next(place for place, text in named.items() if text.startswith("Ask both"))
    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        await http.get("/")  # a cookie
        return await _Visitor(http, config["dependencies"], box).battle(_prompt(number))


async def _crowd(url: str, battles: int) -> list[Seen]:
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        config: dict[str, Any] = (await http.get("/config")).json()
    return await asyncio.gather(*(_visit(url, config, number) for number in range(battles)))


def _prompt(number: int) -> str:
    return f"Tell me the story number {number}."


def _kept(store: Path) -> dict[str, list[int]]:
    """The words of both answers to each prompt, as they were kept."""
    query = "SELECT prompt, text FROM answers JOIN turns ON answers.turn = turns.id"
    found: dict[str, list[int]] = {}
    with closing(sqlite3.connect(store)) as database:
        for prompt, text in database.execute(query):
            found[prompt] = sorted([*found.get(prompt, []), len(text.split())])
    return found


def run(battles: int, seconds: float) -> Load:
    """So many battles at once, with answers of so many seconds."""
    tokens = round(seconds * PACE)
    registry, port, pages = (free_port() for _ in range(3))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gateway = ["--port", str(port), "--registry-port", str(registry), "--store", "none"]
        worker = ["--etcd", f"http://127.0.0.1:{registry}", "--port", "0", "--engine", "scripted"]
        worker += ["--script-tokens", str(tokens), "--script-step-ms", str(1000 // PACE), "--max-rows", "256"]
        web = ["--gateway", f"http://127.0.0.1:{port}", "--port", str(pages), "--store", str(folder / "votes.db")]
        web += ["--prompts-per-minute", "100000", "--max-tokens", str(2 * tokens)]
        with ExitStack() as running:

            def start(name: str, module: str, arguments: list[str], message: str) -> Process:
                process = running.enter_context(Process(name, python(module, *arguments), folder))
                process.wait_logged(message)
                return process

            start("gateway", "gateway", gateway, "gateway listening")
            for model in MODELS:
                start(model, "mesh.worker", [*worker, "--model-name", model], "registered")
            site = start("webui", "webui", web, "web pages listening")
            before = site.cpu()
            seen = asyncio.run(_crowd(f"http://127.0.0.1:{pages}", battles))
            cpu = site.cpu() - before
        kept = _kept(folder / "votes.db")
    whole = sum(sorted(each.words) == kept.get(_prompt(number)) for number, each in enumerate(seen))
    lags = [lag for each in seen for lag in each.lags(seconds)]
    late = float(np.percentile(lags, 95))
    return Load(battles, whole, len(lags), float(np.median(lags)), late, cpu / battles)
