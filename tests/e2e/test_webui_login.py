"""Who may enter the arena: by names and passwords, or by what a proxy says; in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.webui_site import PATIENCE, Site, chromium, visit

NOWHERE = "http://127.0.0.1:9"  # a gateway is not needed to be let in or not
HEADER = "x-signed-in"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


def pages_of(url: str, **headers: str) -> int:
    """The status of what draws the pages."""
    return httpx.get(f"{url}/config", headers=headers, timeout=20).status_code


def test_names_and_passwords(browser: Browser, tmp_path: Path) -> None:
    accounts = tmp_path / "accounts"
    accounts.write_text("# who may enter\nann:wal:nut\n")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    here = {"TMPDIR": str(scratch)}
    with Site(tmp_path, NOWHERE, "--login", str(accounts), env=here) as site, visit(browser) as visitor:
        site.wait_ready()
        assert pages_of(site.url) == 401
        page = visitor.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(site.url)
        name, password = page.get_by_label("Name"), page.get_by_label("Password")
        expect(name).to_be_focused()
        name.fill("ann")
        for given, entered in (("chestnut", False), ("wal:nut", True)):
            password.fill(given)
            password.press("Enter")
            if entered:
                expect(page.locator(".prompt textarea")).to_be_visible()
            else:
                expect(page.get_by_role("alert")).to_have_text("The name or the password is wrong.")
        page.goto(f"{site.url}/leaderboard")
        expect(page.locator("#leaderboard")).to_be_visible()
        page.goto(f"{site.url}/about")
        expect(page.locator("#about-number code")).to_have_text(re.compile("^[0-9a-f]{32}$"))
        assert pages_of(site.url) == 401, "another visitor"
        page.get_by_role("link", name="Sign out").click()
        expect(page.locator("input[type=password]")).to_be_visible()
        assert "the gateway lists no models" in site.output
        assert list(scratch.glob("mesh-webui-*"))
        site.terminate()
        assert site.wait_exit() == 0
        assert not list(scratch.glob("mesh-webui-*")), "files of visitors are left behind"


def test_a_proxy_says_who_has_signed_in(browser: Browser, tmp_path: Path) -> None:
    """That nobody else can is in tests/component/test_webui_http.py."""
    below = ("--root-path", "/arena")
    with Site(tmp_path, NOWHERE, "--user-header", HEADER, "--trusted-proxy", "127.0.0.1", *below) as site:
        site.wait_ready()
        assert pages_of(site.url) == 401
        assert pages_of(site.url, **{HEADER: "ann"}) == 200
        with browser.new_context(extra_http_headers={HEADER: "ann"}) as visitor:
            # As a proxy that shows the pages below a path and hands requests on without it.
            visitor.route(
                "**/arena/**", lambda route: route.continue_(url=route.request.url.replace("/arena/", "/", 1))
            )
            page = visitor.new_page()
            page.goto(f"{site.url}/arena/")
            expect(page.locator(".prompt textarea")).to_be_visible()
            page.get_by_role("link", name="Leaderboard").click()
            expect(page).to_have_url(f"{site.url}/arena/leaderboard")
            expect(page.locator("#leaderboard")).to_be_visible()
        site.interrupt()
        assert site.wait_exit() == 0
        assert "Traceback" not in site.output
