"""A scripted worker of Dynamo: an endpoint that gets token ids and yields token ids."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from scripted import Cut, Refused, Scripted, options, word_ids

llm: Any = import_module("dynamo.llm")
exceptions: Any = import_module("dynamo.llm.exceptions")
runtime: Any = import_module("dynamo.runtime")

# Its workers say by the type of an exception whether a request may go elsewhere.
_REFUSALS = {
    "exhausted": exceptions.WorkerUnavailable,
    "unavailable": exceptions.CannotConnect,
    "internal": exceptions.EngineShutdown,
}


async def serve(distributed: Any) -> None:
    """Register the model and serve it."""
    given = options()
    scripted = Scripted(given)
    words = word_ids(given.model_folder)

    async def generate(request: dict[str, Any], context: Any) -> AsyncIterator[dict[str, Any]]:
        ids: list[int] = request["token_ids"]
        conditions: dict[str, Any] = request["stop_conditions"]
        count: int = conditions["max_tokens"]
        sampling: dict[str, Any] = request["sampling_options"]
        try:
            async for item in scripted.answer(sampling["temperature"] or 0.0, len(ids), count):
                if context.is_stopped():
                    return
                if item.kind == "end":
                    yield _end(len(ids), count, item.completion_tokens)
                elif item.kind == "garbage":
                    yield {"token_ids": "none"}
                else:
                    yield {"token_ids": [words[(item.place * 7 + item.wrong) % len(words)]]}
        except Refused as refusal:
            raise _REFUSALS[str(refusal)]("refused as told") from None
        except Cut:
            raise exceptions.Disconnected("cut as told") from None

    endpoint = distributed.endpoint("dynamo.backend.generate")
    await llm.register_model(
        llm.ModelInput.Tokens,
        llm.ModelType.Chat | llm.ModelType.Completions,
        endpoint,
        given.model_folder,
        given.model,
        worker_type=llm.WorkerType.Aggregated,
    )
    await endpoint.serve_endpoint(generate)


def _end(given: int, asked: int, told: int) -> dict[str, Any]:
    """The frontend counts by itself, unless a worker has counted; ours does so only to be wrong."""
    end: dict[str, Any] = {"token_ids": [], "finish_reason": "length"}
    if told != asked:
        end["completion_usage"] = {
            "prompt_tokens": given,
            "completion_tokens": told,
            "total_tokens": given + told,
        }
    return end


if __name__ == "__main__":
    import_module("uvloop").install()
    asyncio.run(runtime.dynamo_worker()(serve)())
