"""Signing in to the arena: tries that are counted, tokens, and the form."""

from __future__ import annotations

from dataclasses import dataclass

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from webui.http import Frontier
from webui.login import Login
from webui.trust.accounts import Accounts, TooManyTries

NAMES = {"ann": "wal:nut", "Jürgen": "oak"}


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def tries(accounts: Accounts, name: str, count: int, address: str = "here") -> None:
    for _ in range(count):
        assert accounts.enter(name, "wrong", address) is None


def test_a_token_holds_for_a_month_and_until_the_password_changes() -> None:
    clock = Clock()
    accounts = Accounts(NAMES, b"secret", clock=clock)
    token = accounts.enter("Jürgen", "oak", "here")
    assert token is not None
    assert accounts.who(token) == "Jürgen"
    assert Accounts(NAMES, b"secret", clock=clock).who(token) == "Jürgen", "after a restart"
    for others, secret in (({"Jürgen": "new"}, b"secret"), ({"ann": "oak"}, b"secret"), (NAMES, b"another")):
        assert Accounts(others, secret, clock=clock).who(token) is None
    head, _, signed = token.rpartition(".")
    longer = f"{head.rpartition('.')[0]}.{10**12}.{signed}"
    for forged in (longer, token[:-1] + "é", "", "x.y.z", "ff.9999999999.x"):
        assert accounts.who(forged) is None
    clock.now += 31 * 24 * 3600
    assert accounts.who(token) is None


@pytest.mark.parametrize(("name", "password"), [("ann", ""), ("ann", "wal:nut "), ("nobody", ""), ("", "")])
def test_who_may_not_enter(name: str, password: str) -> None:
    assert Accounts(NAMES, b"secret").enter(name, password, "here") is None


def test_failed_tries_make_an_address_wait_longer_and_longer() -> None:
    clock = Clock()
    accounts = Accounts(NAMES, b"secret", waits=clock)
    waited: list[float] = []
    for number in range(15):
        try:
            tries(accounts, f"guess {number}", 1)
        except TooManyTries as error:
            waited.append(error.seconds)
            clock.now += error.seconds
            tries(accounts, f"guess {number}", 1)
    assert waited[:6] == [1, 2, 4, 8, 16, 32]
    assert max(waited) == 900
    with pytest.raises(TooManyTries):
        accounts.enter("ann", "wal:nut", "here")
    assert accounts.enter("ann", "wal:nut", "there")
    clock.now += 3601
    assert accounts.enter("ann", "wal:nut", "here")


def test_a_name_that_is_guessed_from_everywhere_waits_a_minute_at_most_as_does_one_that_is_not_there() -> None:
    clock = Clock()
    for name in ("ann", "nobody"):
        accounts = Accounts(NAMES, b"secret", waits=clock)
        for number in range(20):
            tries(accounts, name, 1, f"address {number}")
            clock.now += 60
        with pytest.raises(TooManyTries) as refused:
            tries(accounts, name, 2, "one more")
        assert refused.value.seconds == 60


async def names(scope: Scope, receive: Receive, send: Send) -> None:
    """Says who has signed in."""
    who = ACCOUNTS.who(Request(scope).cookies.get("mesh_session", ""))
    await PlainTextResponse(who or "nobody")(scope, receive, send)


ACCOUNTS = Accounts(NAMES, b"secret")


def visitor(peer: str, scheme: str = "http") -> httpx.AsyncClient:
    app = Frontier(Login(names, ACCOUNTS, "Our <arena>", "/below"))
    transport = httpx.ASGITransport(app, client=(peer, 1))
    return httpx.AsyncClient(transport=transport, base_url=f"{scheme}://arena", headers={"accept": "text/html"})


async def test_the_form_stands_where_the_page_was_asked_for_and_leads_back_to_it() -> None:
    async with visitor("192.0.2.1") as http:
        form = await http.get("/shared?key=abc")
        assert form.status_code == 401
        assert "Our &lt;arena&gt;" in form.text
        assert 'name="to" value="/shared?key=abc"' in form.text
        assert (await http.get("/config", headers={"accept": "*/*"})).text == "nobody"  # Gradio refuses it
        sent = {"name": " ann ", "password": "wal:nut", "to": "/shared?key=abc"}
        entered = await http.post("/login", data=sent)
        assert (entered.status_code, entered.headers["location"]) == (303, "/below/shared?key=abc")
        cookie = entered.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert "Secure" not in cookie
        assert (await http.get("/")).text == "ann"
        assert (await http.get("/logout")).status_code == 303
        assert (await http.get("/")).status_code == 401


@pytest.mark.parametrize("to", ["//elsewhere.example", "https://elsewhere.example/", "/\\elsewhere.example", "/a/b"])
async def test_it_leads_nowhere_else(to: str) -> None:
    async with visitor("192.0.2.2", "https") as http:
        entered = await http.post("/login", data={"name": "ann", "password": "wal:nut", "to": to})
    assert entered.headers["location"] == "/below/"
    assert "Secure" in entered.headers["set-cookie"]


async def test_what_was_wrong_is_not_told_and_then_there_is_a_wait() -> None:
    async with visitor("192.0.2.3") as http:
        told = [await http.post("/login", data={"name": name, "password": "x"}) for name in ("Jürgen", "nobody")]
        assert {each.status_code for each in told} == {401}
        assert all("The name or the password is wrong." in each.text for each in told)
        await http.post("/login", data={"name": '"><script>', "password": "x"})
        refused = await http.post("/login", data={"name": '"><script>', "password": "oak"})
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert "Too many tries have failed: wait 1 s" in refused.text
    assert "<script>" not in refused.text
