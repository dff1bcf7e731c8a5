"""A scripted worker of FastChat: it registers with the controller, and each message has the whole text so far."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from scripted import Cut, Item, Refused, Scripted, options

aiohttp: Any = import_module("aiohttp")
web: Any = import_module("aiohttp.web")

_CONTEXT = 1_000_000
_PROMPT_TOKENS = 5
_TRIES, _PAUSE = 300, 0.1
_CONVERSATION = {
    "name": "scripted",
    "system_template": "{system_message}",
    "system_message": "",
    "roles": ["USER", "ASSISTANT"],
    "messages": [],
    "offset": 0,
    "sep_style": 1,
    "sep": "\n",
    "sep2": None,
    "stop_str": None,
    "stop_token_ids": None,
}


class Worker:
    """Serves one model."""

    def __init__(self) -> None:
        self._options = options()
        self._scripted = Scripted(self._options)

    def app(self) -> Any:
        """The routes that the API server and the controller ask."""
        app = web.Application()
        app.on_startup.append(self._register)
        app.router.add_post("/worker_generate_stream", self.generate)
        for path, answer in (
            ("/model_details", {"context_length": _CONTEXT}),
            ("/count_token", {"count": _PROMPT_TOKENS, "error_code": 0}),
            ("/worker_get_conv_template", {"conv": _CONVERSATION}),
            ("/worker_get_status", self._status()),
        ):
            app.router.add_post(path, _constant(answer))
        return app

    def _status(self) -> dict[str, Any]:
        return {"model_names": [self._options.model], "speed": 1, "queue_length": 0}

    async def _register(self, app: Any) -> None:
        """As soon as the controller is there."""
        address = f"http://127.0.0.1:{self._options.advertise}"
        # Without a heartbeat: no measurement lasts as long as the 90 s after which one would be missed.
        data = {"worker_name": address, "check_heart_beat": False, "worker_status": self._status(), "multimodal": False}
        async with aiohttp.ClientSession(raise_for_status=True) as client:
            for _ in range(_TRIES):
                try:
                    async with client.post(self._options.registry, json=data):
                        return
                except aiohttp.ClientError:
                    await asyncio.sleep(_PAUSE)
        raise RuntimeError(f"no controller at {self._options.registry}")

    async def generate(self, request: Any) -> Any:
        """One answer, streamed."""
        params = await request.json()
        response = web.StreamResponse()
        try:
            async for message in self._messages(params):
                if not response.prepared:
                    await response.prepare(request)
                await response.write(message + b"\0")
        except Refused:
            # As its workers do: with status 200, in the stream.
            await response.prepare(request)
            await response.write(json.dumps({"text": "refused as told", "error_code": 50002}).encode() + b"\0")
        except Cut:
            request.transport.abort()
        return response

    async def _messages(self, params: dict[str, Any]) -> AsyncIterator[bytes]:
        text, done = "", 0
        async for item in self._scripted.answer(params["temperature"], 0, params["max_new_tokens"]):
            if item.kind == "garbage":
                yield b"{not json"
                continue
            if item.kind == "token":
                text, done = text + f" w{item.place * 7 + item.wrong}", done + 1
            yield json.dumps(_message(text, done, item)).encode()


def _message(text: str, done: int, item: Item) -> dict[str, Any]:
    completion = item.completion_tokens if item.kind == "end" else done
    usage = {"prompt_tokens": _PROMPT_TOKENS, "completion_tokens": completion}
    usage["total_tokens"] = sum(usage.values())
    finish = "length" if item.kind == "end" else None
    return {"text": text, "error_code": 0, "usage": usage, "finish_reason": finish, "logprobs": None}


def _constant(answer: dict[str, Any]) -> Any:
    async def handler(request: Any) -> Any:
        return web.json_response(answer)

    return handler


if __name__ == "__main__":
    web.run_app(Worker().app(), host="127.0.0.1", port=options().port, access_log=None, print=None)
