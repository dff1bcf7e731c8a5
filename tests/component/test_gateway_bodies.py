"""Compressed bodies of requests, within the limit on what they hold."""

from __future__ import annotations

import gzip
import json
import zlib

import httpx
import pytest

from gateway.openai.keys import AT_ONCE
from tests.component.gateway_fixture import GatewayUnderTest, body
from tests.component.gateway_worker import FakeWorker

CHAT = "/v1/chat/completions"
BODY = json.dumps(body(max_tokens=3)).encode()


async def post(gateway: GatewayUnderTest, content: bytes, encoding: str) -> httpx.Response:
    headers = {"content-type": "application/json", "content-encoding": encoding}
    return await gateway.http.post(CHAT, content=content, headers=headers)


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (gzip.compress(BODY), "gzip"),
        (gzip.compress(BODY), "GZIP"),
        (zlib.compress(BODY), "deflate"),
        (BODY, "identity"),
    ],
    ids=["gzip", "upper case", "deflate", "identity"],
)
async def test_a_compressed_body_is_what_it_was_before(content: bytes, encoding: str) -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        packed, plain = await post(gateway, content, encoding), await gateway.chat(max_tokens=3)
    assert packed.json()["choices"] == plain.json()["choices"]


async def test_what_is_packed_counts_as_unpacked() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest(max_body_bytes=10_000) as gateway:
        await gateway.add(worker)
        full = BODY + b" " * (10_000 - len(BODY))
        assert (await post(gateway, gzip.compress(full), "gzip")).status_code == 200
        for content in (gzip.compress(full + b" "), gzip.compress(b" " * 5_000_000)):
            assert len(content) < 10_000
            response = await post(gateway, content, "gzip")
            assert (response.status_code, response.json()["error"]["code"]) == (413, "payload_too_large")
            assert "10000" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (BODY, "gzip"),
        (gzip.compress(BODY)[:-1], "gzip"),
        (gzip.compress(BODY) + b"x", "gzip"),
        (gzip.compress(BODY), "deflate"),
        (b"", "gzip"),
    ],
    ids=["plain", "cut", "more", "other", "nothing"],
)
async def test_what_is_no_compressed_body_is_refused(content: bytes, encoding: str) -> None:
    async with GatewayUnderTest() as gateway:
        response = await post(gateway, content, encoding)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, "body", "invalid_request")


@pytest.mark.parametrize("padding", [0, 2 * AT_ONCE], ids=["small", "large"])
async def test_a_key_that_comes_twice_is_refused_in_a_body_of_any_size(padding: int) -> None:
    content = b'{"model": "m", "prompt": "%b", "logit_bias": {"1": 1, "1": 2}}' % (b"x" * padding)
    async with GatewayUnderTest() as gateway:
        for encoding in ("identity", "gzip"):
            sent = gzip.compress(content) if encoding == "gzip" else content
            headers = {"content-type": "application/json", "content-encoding": encoding}
            refused = await gateway.http.post("/v1/completions", content=sent, headers=headers)
            assert refused.status_code == 400
            assert refused.json()["error"]["message"] == "'1' is given twice in one object"
