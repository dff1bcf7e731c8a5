"""Which web pages may use the gateway."""

from __future__ import annotations

import httpx

from tests.component.gateway_fixture import GatewayUnderTest
from tests.component.test_gateway_keys import make_book

CHAT = "/v1/chat/completions"
PAGE = "https://chat.example.org"


async def preflight(gateway: GatewayUnderTest, origin: str = PAGE) -> httpx.Response:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type",
    }
    return await gateway.http.options(CHAT, headers=headers)


def granted(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("access-control-")}


async def test_without_the_setting_no_page_may() -> None:
    async with GatewayUnderTest() as gateway:
        assert granted(await preflight(gateway)) == {}
        assert granted(await gateway.http.get("/v1/models", headers={"origin": PAGE})) == {}


async def test_the_pages_that_are_named_may_and_a_preflight_needs_no_key() -> None:
    book, _, key = make_book()
    async with GatewayUnderTest(book=book, cors_origins=(PAGE,)) as gateway:
        asked, other = await preflight(gateway), await preflight(gateway, "https://evil.example.org")
        refused = await gateway.http.get("/v1/models", headers={"origin": PAGE})
        listed = await gateway.http.get("/v1/models", headers={"origin": PAGE, **key})
        plain = await gateway.http.options("/v1/models", headers={"origin": PAGE})
    assert asked.status_code == 204
    assert granted(asked) | {"access-control-expose-headers": ""} == {
        "access-control-allow-origin": PAGE,
        "access-control-allow-methods": "GET, HEAD, POST, DELETE, OPTIONS",
        "access-control-allow-headers": "authorization, content-type",
        "access-control-max-age": "600",
        "access-control-expose-headers": "",
    }
    assert granted(other) == {}
    assert [answer.status_code for answer in (refused, listed, plain)] == [401, 200, 401]
    for answer in (refused, listed):
        assert answer.headers["access-control-allow-origin"] == PAGE
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        assert {"x-request-id", "x-ratelimit-remaining-tokens"} <= set(exposed)
    assert all(answer.headers["vary"] == "Origin" for answer in (asked, other, refused, listed))


async def test_every_page_may_and_none_with_credentials() -> None:
    async with GatewayUnderTest(cors_origins=("*",)) as gateway:
        asked, listed = await preflight(gateway), await gateway.http.get("/v1/models")
    for answer in (asked, listed):
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers
        assert "vary" not in answer.headers
