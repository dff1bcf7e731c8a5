"""What goes around the arena's pages: the cookie, the policy, and whom a proxy may speak for."""

from __future__ import annotations

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.types import Receive, Scope, Send

from webui.http import Frontier


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    """Says who asks."""
    request = Request(scope)
    client = request.client.host if request.client else ""
    open_to_all = {"access-control-allow-origin": "*", "access-control-allow-credentials": "true"}
    answer = HTMLResponse(f"{client} {request.headers.get('x-user', 'nobody')}", headers=open_to_all)
    await answer(scope, receive, send)


def client(peer: str) -> httpx.AsyncClient:
    app = Frontier(page, proxies=["10.0.0.1"], user_header="X-User")
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(peer, 1)), base_url="http://arena")


@pytest.mark.parametrize(
    ("peer", "seen"), [("10.0.0.1", "192.0.2.7 ann"), ("192.0.2.9", "192.0.2.9 nobody")], ids=["proxy", "stranger"]
)
async def test_only_a_proxy_says_who_asks(peer: str, seen: str) -> None:
    async with client(peer) as http:
        answer = await http.get("/", headers={"x-user": "ann", "x-forwarded-for": "198.51.100.1, 192.0.2.7"})
    assert answer.text == seen


@pytest.mark.parametrize(("peer", "secure"), [("10.0.0.1", True), ("192.0.2.9", False)], ids=["proxy", "stranger"])
async def test_where_the_proxy_speaks_https_the_cookie_is_for_https_alone(peer: str, secure: bool) -> None:
    async with client(peer) as http:
        answer = await http.get("/", headers={"x-forwarded-proto": "https"})
    assert answer.headers["set-cookie"].endswith("; Secure") == secure


async def test_a_browser_gets_one_cookie_that_scripts_cannot_read() -> None:
    async with client("192.0.2.9") as http:
        first, second = await http.get("/"), await http.get("/")
    assert "HttpOnly" in first.headers["set-cookie"]
    assert "set-cookie" not in second.headers
    assert "default-src 'self'" in second.headers["content-security-policy"]


async def test_no_other_site_may_read_or_frame_what_is_answered() -> None:
    async with client("192.0.2.9") as http:
        headers = (await http.get("/", headers={"origin": "https://elsewhere.example"})).headers
    assert not [name for name in headers if name.startswith("access-control-")]
    assert headers["x-frame-options"] == "SAMEORIGIN"
    assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("others", ['theme={"dark":true}', "a b=c", "x=é", 'open="', ""])
async def test_whatever_cookies_others_have_set_a_visitor_stays_the_same(others: str) -> None:
    async with client("192.0.2.9") as http:
        answer = await http.get("/", headers={b"cookie": f"{others}; mesh_visitor=abc".encode()})
        nameless = await http.get("/", headers={"cookie": "mesh_visitor="})
    assert "set-cookie" not in answer.headers
    assert "set-cookie" in nameless.headers
