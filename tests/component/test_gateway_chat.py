"""The chat API end to end: HTTP in, gRPC session out, over real sockets."""

from __future__ import annotations

from tests.component.gateway_fixture import GatewayUnderTest, text
from tests.component.gateway_worker import FakeWorker, text_of_tokens, token_at


def expected(seed: int, length: int, choice: int = 0) -> str:
    return text_of_tokens([token_at(seed, choice, position) for position in range(length)])


async def test_a_streamed_answer_has_the_exact_chunks() -> None:
    async with FakeWorker("w1") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        events = await gateway.stream(max_tokens=4, stream_options={"include_usage": True})
    first, *_, finish, usage, done = events
    assert first["choices"] == [
        {
            "index": 0,
            "delta": {"role": "assistant", "content": "", "refusal": None},
            "logprobs": None,
            "finish_reason": None,
        }
    ]
    assert finish["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}]
    assert (usage["choices"], usage["usage"]["completion_tokens"], usage["usage"]["prompt_tokens"]) == ([], 4, 5)
    assert done == "[DONE]"
    assert text(events) == expected(7, 4)
    assert {(event["id"], event["created"], event["model"]) for event in events[:-1]} == {
        (first["id"], first["created"], "m")
    }
    assert all(event["usage"] is None for event in events[:-2])
    assert first["system_fingerprint"] == "fp_aaaabbbbcccc"
