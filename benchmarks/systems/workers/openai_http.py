"""A scripted worker that speaks OpenAI's chat API, for gateways that proxy HTTP, such as LiteLLM."""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from scripted import Cut, Item, Refused, Scripted, options

web: Any = import_module("aiohttp.web")

_STATUS = {"exhausted": 429, "unavailable": 503, "internal": 500}
_PROMPT_TOKENS = 5


class Worker:
    """Serves one model."""

    def __init__(self) -> None:
        self._options = options()
        self._scripted = Scripted(self._options)

    def app(self) -> Any:
        """The routes."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.chat)
        return app

    async def chat(self, request: Any) -> Any:
        """One answer, streamed."""
        body = await request.json()
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        try:
            async for item in self._scripted.answer(body["temperature"], 0, body["max_tokens"]):
                if not response.prepared:
                    await response.prepare(request)
                await response.write(self._frame(item))
        except Refused as refusal:
            return web.json_response({"error": {"message": "refused as told"}}, status=_STATUS[str(refusal)])
        except Cut:
            request.transport.abort()
        return response

    def _frame(self, item: Item) -> bytes:
        if item.kind == "garbage":
            return b"data: {not json\n\n"
        base = {"id": "1", "created": int(time.time()), "object": "chat.completion.chunk"}
        base["model"] = "another" if item.wrong else self._options.model
        if item.kind == "token":
            text = f" w{item.place * 7 + item.wrong}"
            return _data({**base, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})
        usage = {"prompt_tokens": _PROMPT_TOKENS, "completion_tokens": item.completion_tokens}
        usage["total_tokens"] = sum(usage.values())
        finish = _data({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
        return finish + _data({**base, "choices": [], "usage": usage}) + b"data: [DONE]\n\n"


def _data(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


if __name__ == "__main__":
    web.run_app(Worker().app(), host="127.0.0.1", port=options().port, access_log=None, print=None)
