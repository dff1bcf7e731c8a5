"""Bad input over HTTP: each mistake gets its own clear answer, and the engine and the other rows never feel it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.e2e.answers import Answer, Body, ask, chat
from tests.e2e.rawhttp import CHAT, Connection, encode, fetch, get, post
from tests.e2e.tiny_mesh import CONTEXT, KV_TOKENS, tiny_mesh
from tests.harness import Mesh, eventually

BODY_LIMIT = 200_000


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A real model, tiny and random, with a KV pool that is smaller than its context."""
    with tiny_mesh(tmp_path_factory.mktemp("bad-input"), "--max-body-bytes", str(BODY_LIMIT)) as mesh:
        yield mesh


@pytest.fixture(autouse=True)
async def neighbours(mesh: Mesh) -> AsyncIterator[None]:
    """Two good streams run during each test and must end as they do undisturbed."""
    common: Body = {"max_tokens": 100, "ignore_eos": True}
    bodies = [chat(mesh.model, "one", **common), chat(mesh.model, "two", temperature=1, seed=7, **common)]
    if not _undisturbed:
        _undisturbed.extend([await ask(mesh.gateway.url, body) for body in bodies])
    tasks = [asyncio.create_task(ask(mesh.gateway.url, body)) for body in bodies]
    yield
    answers = await asyncio.gather(*tasks)
    assert [answer.seen for answer in answers] == [answer.seen for answer in _undisturbed]


_undisturbed: list[Answer] = []


async def refused(mesh: Mesh, body: object, status: int, code: str, *words: object) -> dict[str, Any]:
    """Send it; check status and code, and that the message says what the words say."""
    response = await post(mesh.gateway.url, body)
    error = response.error()
    assert (response.status, error["code"]) == (status, code), error
    for word in words:
        assert str(word) in error["message"], (word, error["message"])
    return error


async def test_an_unknown_model_is_404_with_the_list(mesh: Mesh) -> None:
    error = await refused(mesh, chat("gpt-nonesuch"), 404, "model_not_found", "gpt-nonesuch", mesh.model)
    assert error["param"] == "model"
    assert [model["id"] for model in (await get(mesh.gateway.url, "/v1/models")).json()["data"]] == [mesh.model]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"model": "x", "messages": [}',
        b"[1, 2]",
        b"null",
        b'"text"',
        b"\xff\xfe\x00",
        b'{"model": NaN}',
        b"[" * 100_000,
        b'{"messages": ' + b'{"a":' * 30_000,
    ],
    ids=["empty", "cut", "broken", "a list", "null", "a text", "not UTF-8", "NaN", "deep lists", "deep objects"],
)
async def test_a_body_that_is_no_request_is_400(mesh: Mesh, body: bytes) -> None:
    await refused(mesh, body, 400, "invalid_request")


WRONG_TYPES: list[tuple[str, object]] = [
    ("model", 7),
    ("messages", "Hello"),
    ("messages", [{"role": "user", "content": 7}]),
    ("messages", [7]),
    ("stream", "yes"),
    ("temperature", "warm"),
    ("n", 1.5),
    ("stop", [1]),
    ("max_tokens", "many"),
    ("seed", 2.5),
    ("logit_bias", [1]),
    ("stream_options", True),
]


@pytest.mark.parametrize(("field", "value"), WRONG_TYPES)
async def test_a_wrong_type_is_400_naming_the_field(mesh: Mesh, field: str, value: object) -> None:
    error = await refused(mesh, chat(mesh.model) | {field: value}, 400, "invalid_request")
    assert error["param"].startswith(field)
    assert field in error["message"]


OUT_OF_RANGE: list[tuple[str, object, object]] = [
    ("temperature", 2.5, 2),
    ("temperature", -0.5, 0),
    ("top_p", 1.5, 1),
    ("top_p", -1, 0),
    ("n", 0, 1),
    ("n", 129, 128),
    ("max_tokens", 0, 1),
    ("max_completion_tokens", -3, 1),
    ("frequency_penalty", 3, 2),
    ("presence_penalty", -2.5, -2),
    ("min_p", 1.25, 1),
    ("repetition_penalty", 0, 0.01),
    ("repetition_penalty", 11, 10),
    ("top_k", -2, -1),
    ("top_logprobs", 21, 20),
    ("seed", 2**63, 2**63 - 1),
]


@pytest.mark.parametrize(("field", "value", "limit"), OUT_OF_RANGE)
async def test_a_value_out_of_range_is_400_naming_field_limit_and_value(
    mesh: Mesh, field: str, value: object, limit: object
) -> None:
    body = chat(mesh.model) | {field: value} | ({"logprobs": True} if field == "top_logprobs" else {})
    response = await post(mesh.gateway.url, body)
    error = response.error()
    assert (response.status, error["code"], error["param"]) == (400, "invalid_request", field)
    assert all(str(word) in error["message"] for word in (field, value, limit)), error["message"]


async def test_an_unknown_field_is_400_by_name(mesh: Mesh) -> None:
    await refused(mesh, chat(mesh.model) | {"temprature": 1}, 400, "invalid_request", "temprature")


async def test_a_prompt_longer_than_the_context_names_both_numbers(mesh: Mesh) -> None:
    # One token per character, and the template's own.
    text = "a" * (2 * CONTEXT)
    error = await refused(mesh, chat(mesh.model, text), 400, "context_length_exceeded")
    numbers = [int(word) for word in error["message"].replace(",", " ").split() if word.isdigit()]
    assert min(numbers) == KV_TOKENS
    assert 2 * CONTEXT < max(numbers) < 2 * CONTEXT + 30


async def test_a_prompt_larger_than_the_kv_pool_is_longer_than_the_context_that_is_offered(mesh: Mesh) -> None:
    assert (await get(mesh.gateway.url, "/v1/models")).json()["data"][0]["context_length"] == KV_TOKENS
    for tokens in (KV_TOKENS, (KV_TOKENS + CONTEXT) // 2):
        await refused(mesh, chat(mesh.model, "a" * tokens), 400, "context_length_exceeded", KV_TOKENS)


async def test_a_prompt_that_just_fits_is_answered_up_to_the_end_of_the_context(mesh: Mesh) -> None:
    few = await ask(mesh.gateway.url, chat(mesh.model, "a", max_tokens=1))
    assert few.usage is not None
    text = "a" * (KV_TOKENS - few.usage["prompt_tokens"] - 3)
    answer = await ask(mesh.gateway.url, chat(mesh.model, text, ignore_eos=True))
    assert answer.usage is not None
    assert answer.usage["total_tokens"] == KV_TOKENS
    assert answer.reasons == {0: "length"}


async def test_a_body_over_the_limit_is_413_before_it_is_read(mesh: Mesh) -> None:
    error = await refused(mesh, chat(mesh.model, "x" * BODY_LIMIT), 413, "payload_too_large", BODY_LIMIT)
    assert error["type"] == "invalid_request_error"
    async with Connection(mesh.gateway.url) as connection:
        await connection.send_head("POST", CHAT, {"content-length": "1000000000"})
        assert await connection.read_head() == 413


async def test_a_body_over_the_limit_in_chunks_is_413(mesh: Mesh) -> None:
    piece = b"x" * 60_000
    chunk = b"%x\r\n%b\r\n" % (len(piece), piece)
    async with Connection(mesh.gateway.url) as connection:
        await connection.send_head("POST", CHAT, {"transfer-encoding": "chunked"})
        await connection.write(chunk * 5)
        assert await connection.read_head() == 413


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 0.0000001},
        {"top_p": 0, "temperature": 1},
        {"top_p": 1e-9, "temperature": 1},
        {"messages": [{"role": "user", "content": ""}]},
        {"messages": [{"role": "user", "content": "\x00\x00"}]},
        {"messages": [{"role": "user", "content": "a\x00b\ufffe\u2028\U0010ffff"}]},
        {"messages": [{"role": "system", "content": ""}, {"role": "user", "content": ""}]},
        {"messages": [{"role": "user", "content": "<s></s><|im_end|><unk>"}]},
        {"stop": ["\x00"]},
        {"stop": "x" * 1024},
        {"logit_bias": {"5": 100}},
        {"logit_bias": {str(token): -100 for token in range(200)}, "temperature": 1, "seed": 1},
        {"n": 16, "temperature": 1, "seed": 1},
        {"frequency_penalty": 2, "presence_penalty": 2, "repetition_penalty": 10},
        {"repetition_penalty": 0.01, "temperature": 2, "seed": -(2**63)},
        {"max_tokens": 2**31},
    ],
    ids=str,
)
async def test_a_strange_but_valid_request_is_answered(mesh: Mesh, options: Body) -> None:
    answer = await ask(mesh.gateway.url, chat(mesh.model) | {"max_tokens": 8} | options)
    assert answer.complete
    assert answer.usage is not None
    assert set(answer.reasons.values()) <= {"stop", "length"}
    assert len(answer.reasons) == options.get("n", 1)


async def test_ten_thousand_stop_strings_are_refused_by_number(mesh: Mesh) -> None:
    body = chat(mesh.model, stop=[str(number) for number in range(10_000)])
    error = await refused(mesh, body, 400, "invalid_request", 10_000)
    assert error["param"] == "stop"


@pytest.mark.parametrize("where", ["content", "stop", "role", "model", "user"])
async def test_a_lone_surrogate_is_refused_or_answered_but_breaks_nothing(mesh: Mesh, where: str) -> None:
    data = encode(chat(mesh.model, "Hello", max_tokens=4, stop="STOP", user="USER"))
    target = {
        "content": b"Hello",
        "stop": b"STOP",
        "role": b'"user", "content',
        "model": mesh.model.encode(),
        "user": b"USER",
    }
    replacement = b'us\\ud800er", "content' if where == "role" else b"a\\ud800b"
    changed = data.replace(target[where].lstrip(b'"'), replacement, 1)
    assert changed != data
    response = await fetch(mesh.gateway.url, "POST", CHAT, changed)
    assert response.status in (200, 400, 404), response
    if response.status != 200:
        response.error()


async def test_wrong_urls_and_methods_have_the_envelope_too(mesh: Mesh) -> None:
    assert (await get(mesh.gateway.url, "/v1/nonesuch")).status == 404
    assert (await get(mesh.gateway.url, "/v1/nonesuch")).error()["message"]
    response = await get(mesh.gateway.url, "/v1/completions")
    assert response.status == 405
    assert response.error()["code"] == "method_not_supported"


async def test_nothing_of_it_has_reached_the_engine(mesh: Mesh) -> None:
    """Runs last in this module: the worker is the one that was started first, and all is well with it."""
    worker = mesh.workers[0]
    assert worker.popen.poll() is None
    assert "Traceback" not in worker.output
    assert "Traceback" not in mesh.gateway.output
    await eventually(lambda: worker.stats().live_streams == 0, within=20)
