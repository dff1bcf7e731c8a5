"""Messages on the wire, counted by an interceptor between the worker and its client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc.aio

from mesh.engine.scripted import ScriptedEngine, ScriptedOptions
from mesh.v1 import inference_pb2 as pb
from tests.columns import as_events
from tests.component.worker_rig import serving

STREAMS = 16
TOKENS = 40


class Counter(grpc.aio.StreamStreamClientInterceptor):
    """Counts the messages that carry events, and the tokens in them."""

    def __init__(self) -> None:
        self.messages = 0
        self.tokens = 0

    async def intercept_stream_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> AsyncIterator[pb.SessionResponse]:
        call = await continuation(client_call_details, request_iterator)

        async def counted() -> AsyncIterator[pb.SessionResponse]:
            async for message in call:
                self.messages += bool(as_events(message))
                self.tokens += sum(len(event.delta.token_ids) for event in as_events(message))
                yield message

        return counted()


def _finished(messages: Sequence[pb.SessionResponse]) -> int:
    return sum(event.HasField("finished") for message in messages for event in message.events)


async def test_messages_are_engine_steps_and_not_tokens() -> None:
    engine = ScriptedEngine(ScriptedOptions(tokens=TOKENS, step_interval=0.02))
    counter = Counter()
    async with serving(engine) as rig:
        async with (
            grpc.aio.insecure_channel(f"127.0.0.1:{rig.port}", interceptors=[counter]) as channel,
            rig.session(channel) as session,
        ):
            for stream in range(STREAMS):
                await session.start(stream)
            await session.until(lambda: _finished(session.messages) == STREAMS)
        steps = engine.stats()["steps"]
        tokens = engine.stats()["output_tokens"]
    assert counter.tokens == tokens >= STREAMS * TOKENS
    # Steps share a message where the writer is late; none is split.
    assert 0 < counter.messages <= steps
    assert counter.messages * 4 < counter.tokens
