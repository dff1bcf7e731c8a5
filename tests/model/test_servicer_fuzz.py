"""Any message that the proto can express, to a worker with a real model: answered or refused, and no harm is done."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from transformers import PreTrainedModel

from mesh.engine.transformers.engine import TransformersEngine
from mesh.engine.transformers.loading.options import LoadOptions
from mesh.engine.transformers.memory import CacheSize
from mesh.engine.transformers.options import EngineOptions
from mesh.v1 import inference_pb2 as pb
from tests.component.worker_rig import Rig, serving
from tests.harness import eventually
from tests.model.driver import prompt_of
from tests.model.tiny import generate

Saved = tuple[str, PreTrainedModel]
REQUESTS = 240
AT_ONCE = 8
# What a client's fault may be called. Anything else is ours.
REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.OUT_OF_RANGE,
}
NUMBERS = [0, 1, 2, 3, 7, 20, 21, 64, 128, 129, 319, 320, 2**31 - 1]
FLOATS = [0.0, 1.0, 0.5, -0.5, 2.0, 1e-30, 1e30, -1.0, float("nan"), float("inf"), float("-inf")]
TEXTS = ["", "a", "ab", "é\u0000", "\U0001f600", "{", "[a-", "(a|b)*", '{"type": "object"}', "start: /a+/", "x" * 300]


def value_of(draw: random.Random, field: Any) -> Any:
    """A value that is valid often enough to get somewhere, and hostile often enough to hurt."""
    kinds = FieldDescriptor
    match field.cpp_type:
        case kinds.CPPTYPE_BOOL:
            return draw.random() < 0.5
        case kinds.CPPTYPE_ENUM:
            return draw.choice(field.enum_type.values).number
        case kinds.CPPTYPE_STRING:
            return draw.choice(TEXTS) if field.type == kinds.TYPE_STRING else draw.randbytes(draw.randrange(9))
        case kinds.CPPTYPE_FLOAT | kinds.CPPTYPE_DOUBLE:
            return draw.choice(FLOATS)
        case kinds.CPPTYPE_INT32 | kinds.CPPTYPE_INT64:
            return draw.choice([-1, -(2**31), *NUMBERS])
        case _:
            return draw.choice([2**32 - 1, *NUMBERS])


def fill_map(draw: random.Random, entries: Any, share: float, depth: int) -> None:
    """The two maps that requests have: biases by token, and a chat template's arguments."""
    if hasattr(entries, "get_or_create"):
        fill(draw, entries.get_or_create(draw.choice(TEXTS)), share, depth + 1)
    else:
        entries[draw.choice(NUMBERS)] = draw.choice(FLOATS)


def fill(draw: random.Random, message: Message, share: float, depth: int = 0) -> None:
    """Set a share of the fields of a message, at random."""
    for field in message.DESCRIPTOR.fields:
        if draw.random() > share or depth > 4:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            fill_map(draw, getattr(message, field.name), share, depth)
        elif field.is_repeated and field.message_type is not None:
            for _ in range(draw.randrange(3)):
                fill(draw, getattr(message, field.name).add(), share, depth + 1)
        elif field.is_repeated:
            getattr(message, field.name).extend(value_of(draw, field) for _ in range(draw.randrange(4)))
        elif field.message_type is not None:
            getattr(message, field.name).SetInParent()
            fill(draw, getattr(message, field.name), share, depth + 1)
        else:
            setattr(message, field.name, value_of(draw, field))


def random_request(draw: random.Random) -> pb.GenerateRequest:
    request = pb.GenerateRequest()
    fill(draw, request, draw.choice([0.05, 0.2, 0.5]))
    if draw.random() < 0.8:  # so that not all are refused for the same few reasons
        for name in ("model", "adapter", "expected_fingerprint", "resume", "deadline_ms"):
            request.ClearField(name)  # pyright: ignore[reportArgumentType]
        if request.WhichOneof("prompt") is None:
            request.tokens.ids.extend(draw.choices(range(256), k=draw.randint(1, 90)))
        if not 1 <= request.sampling.max_tokens <= 20:
            request.sampling.max_tokens = draw.randint(1, 20)
    return request


@pytest.fixture
async def rig(llama: Saved) -> AsyncIterator[tuple[Rig, TransformersEngine]]:
    options = EngineOptions(
        LoadOptions(path=llama[0], threads=1), max_rows=16, kv_cache=CacheSize(tokens=1024), speculate_tokens=3
    )
    engine = TransformersEngine(options)
    async with serving(engine) as found:
        yield found, engine


async def ask(rig: Rig, request: pb.GenerateRequest) -> str:
    """How a request ended; fails if it is the worker's fault."""
    try:
        call = rig.inference.Generate(request, timeout=30)
        kinds = [response.WhichOneof("event") async for response in call]
    except grpc.aio.AioRpcError as error:
        code = error.code()
        if code not in REFUSALS:
            pytest.fail(f"{error} after {request}")
        return code.name
    assert (kinds[0], kinds[-1]) == ("started", "finished"), (request, kinds)
    return "finished"


async def test_any_request_is_answered_or_refused(rig: tuple[Rig, TransformersEngine], llama: Saved) -> None:
    worker, engine = rig
    draw = random.Random(3)
    expected = generate(llama[1], prompt_of(20), 60)
    ends: dict[str, int] = {}
    async with worker.session() as session:
        for round_number in range(1, REQUESTS // AT_ONCE + 1):
            # A neighbour that runs all the while.
            sampling = pb.SamplingOptions(temperature=0, max_tokens=60, ignore_eos=True)
            neighbour = pb.GenerateRequest(tokens=pb.TokenIds(ids=prompt_of(20)), sampling=sampling)
            await session.start(round_number, neighbour)
            requests = [random_request(draw) for _ in range(AT_ONCE)]
            for end in await asyncio.gather(*(ask(worker, request) for request in requests)):
                ends[end] = ends.get(end, 0) + 1
            await session.until(lambda stream=round_number: "finished" in session.kinds(stream))
            tokens = [token for event in session.events(round_number) for token in event.delta.token_ids]
            assert tokens == expected, requests
    assert ends["finished"] > REQUESTS // 10, ends
    assert ends["INVALID_ARGUMENT"] > REQUESTS // 10, ends
    await eventually(lambda: not engine.stats()["rows_live"] and not engine.stats()["kv_pages_used"])
