"""Battles in a real browser: two models answer, nobody knows who until a vote is in the database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.component.arena_votes import fill
from tests.e2e.webui_site import (
    DESKTOP,
    PATIENCE,
    PHONE,
    Site,
    Tap,
    Watch,
    ask,
    chromium,
    open_page,
    said,
    visit,
    wait_vote,
)
from tests.harness import Mesh, wait_until
from webui.store.store import open_store

# Neither is among the words that the models say.
MODELS = ("zebra-7b", "quokka-9b")
WORDS = 40

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Two models; one is three times as fast as the other."""
    args = ("--engine", "scripted", "--script-tokens", str(WORDS))
    with Mesh(tmp_path_factory.mktemp("mesh"), workers=0, worker_args=args) as running:
        for model, pace in zip(MODELS, ("15", "40"), strict=True):
            running.start_worker("--model-name", model, "--script-step-ms", pace, name=model)
        for worker in running.workers:
            worker.wait_ready()
        running.wait_listed(2)
        yield running


@pytest.fixture(scope="module")
def site(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site"), mesh.gateway.url, "--leaderboard-interval", "0.2") as running:
        yield running.wait_ready()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


def votes(site: Site) -> int:
    return site.rows("SELECT count(*) FROM votes")[0][0]


def heads(page: Page, mode: str = "battle") -> list[str]:
    return [page.locator(f"#{mode}-head-{side} .who").inner_text() for side in "ab"]


def test_a_battle_is_blind_until_its_vote_is_kept(site: Site, browser: Browser) -> None:
    watch = Watch()
    before = votes(site)
    with Tap(site.url) as tap, visit(browser) as visitor:
        page = open_page(visitor, tap.url, watch)
        ask(page, "Tell me a story.")
        # The words come one after the other, as many on either side, though one model is faster.
        expect(page.locator("#battle-chat-a .bot-row")).to_contain_text(" ")
        expect(page.locator("#battle-vote-a")).to_be_disabled()
        wait_vote(page)
        assert [len(said(page, side=side).split()) for side in "ab"] == [WORDS, WORDS]
        assert heads(page) == ["Model A", "Model B"]
        blind = tap.heard()
        assert b"process_generating" in blind, "the tap did not hear the answers"
        for model in MODELS:
            assert model.encode() not in blind
        assert votes(site) == before

        page.locator("#battle-status").click()  # leaves the box
        page.keyboard.press("a")
        expect(page.locator("#battle-status")).to_contain_text("Thanks")
        assert votes(site) == before + 1, "thanked before it was kept"
        assert sorted(heads(page)) == sorted(MODELS)
        expect(page.locator("#battle-head-a .facts")).to_contain_text("tokens/s")
        expect(page.locator("#battle-vote-a")).to_be_disabled()
        assert site.rows("SELECT choice FROM votes ORDER BY rowid DESC LIMIT 1") == [("a",)]
        page.get_by_role("link", name="Leaderboard").click()
        for model in MODELS:
            expect(page.locator("#leaderboard-table")).to_contain_text(model)
        with page.expect_download() as download:
            page.get_by_role("button", name="CSV").click()
        assert all(model in download.value.path().read_text() for model in MODELS)
    assert watch.errors == []
    assert watch.left == []


def test_stop_reaches_the_engines_and_answers_can_be_had_again(mesh: Mesh, site: Site, browser: Browser) -> None:
    with visit(browser) as visitor:
        page = open_page(visitor, site.url)
        ask(page, "A long story.")
        expect(page.locator("#battle-chat-b .bot-row")).to_contain_text(" ")
        page.locator(".prompt .stop-button").click()
        expect(page.locator("#battle-status")).to_contain_text("Stopped")
        wait_until(lambda: all(worker.stats().live_streams == 0 for worker in mesh.workers))
        assert len(said(page).removesuffix("Stopped.").split()) < WORDS
        expect(page.locator("#battle-vote-a")).to_be_disabled()
        page.locator("#battle-again").click()
        wait_vote(page)
        assert len(said(page).split()) == WORDS
        page.locator("#battle-edit").click()
        expect(page.locator(".prompt textarea")).to_have_value("A long story.")
        ask(page, "A short story.")
        expect(page.locator("#battle-chat-a .user-row")).to_have_text("A short story.")
        wait_vote(page)


def test_a_page_whose_connection_broke_goes_on_and_two_pages_have_one_vote(site: Site, browser: Browser) -> None:
    before = votes(site)
    with visit(browser) as visitor:
        page = open_page(visitor, site.url)
        ask(page, "Once more.")
        expect(page.locator("#battle-chat-a .bot-row")).to_contain_text(" ")
        page.locator(".prompt textarea").fill("written and not sent")
        visitor.set_offline(True)
        expect(page.get_by_text("Connection to the server was lost").first).to_be_visible()
        visitor.set_offline(False)
        wait_vote(page)
        expect(page.locator(".prompt textarea")).to_have_value("written and not sent")
        assert [len(said(page, side=side).split()) for side in "ab"] == [WORDS, WORDS]
        other = open_page(visitor, site.url)
        wait_vote(other)
        page.locator("#battle-vote-tie").click()
        expect(page.locator("#battle-status")).to_contain_text("Thanks")
        other.locator("#battle-vote-b").click()
        expect(other.locator("#battle-status")).to_contain_text("one vote each")
        assert sorted(heads(other)) == sorted(MODELS), "it is over on the other page, too"
    assert votes(site) == before + 1


def test_a_vote_posted_past_the_page_counts_nothing(site: Site, browser: Browser) -> None:
    """Straight to Gradio's queue, to every handler that there is, in sessions of one's own and in another's."""
    before = votes(site)
    with visit(browser) as visitor:
        page = visitor.new_page()
        with page.expect_request(lambda request: "session_hash=" in request.url) as stream:
            page.goto(site.url)
        stolen = stream.value.url.partition("session_hash=")[2].partition("&")[0]
        ask(page, "To be stolen.")
        wait_vote(page)
        battle = site.rows("SELECT id FROM battles ORDER BY rowid DESC LIMIT 1")[0][0]
        with httpx.Client(base_url=site.url) as client:
            client.get("/")  # a cookie of its own
            handlers = client.get("/config").json()["dependencies"]
            assert handlers
            for session in (stolen, "another"):
                for handler in handlers:
                    body = {"data": [battle], "fn_index": handler["id"], "session_hash": session, "trigger_id": None}
                    client.post("/gradio_api/queue/join", json=body)
            with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "another"}) as events:
                for line in events.iter_lines():
                    if "close_stream" in line:
                        break
        assert votes(site) == before
        page.locator("#battle-vote-a").click()
        expect(page.locator("#battle-status")).to_contain_text("Thanks")
        assert votes(site) == before + 1


def test_side_by_side_names_models_and_its_votes_do_not_count(site: Site, browser: Browser) -> None:
    watch = Watch()
    with visit(browser) as visitor:
        page = open_page(visitor, f"{site.url}/side-by-side", watch)
        expect(page.locator("#named-model-a input")).to_have_value(sorted(MODELS)[0])
        ask(page, "Compare yourselves.")
        wait_vote(page, "named")
        assert heads(page, "named") == sorted(MODELS)
        page.locator("#named-vote-b").click()
        expect(page.locator("#named-status")).to_contain_text("do not count")
    assert site.rows("SELECT mode FROM battles ORDER BY rowid DESC LIMIT 1") == [("named",)]
    assert watch.errors == []


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_pages_fit_their_screen(site: Site, browser: Browser, size: tuple[int, int]) -> None:
    watch = Watch()
    with visit(browser, size) as visitor:
        for path in ("", "side-by-side", "direct", "leaderboard", "about"):
            page = visitor.new_page()
            watch.look_at(page)
            page.goto(f"{site.url}/{path}")
            expect(page.get_by_role("navigation", name="Pages").locator("[aria-current=page]")).to_be_visible()
            expect(page.locator("#battle-prompt, #named-prompt, #direct-prompt, #leaderboard, #about")).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
            page.close()
    assert watch.errors == []
    assert watch.left == []


def test_a_shared_battle_can_be_read_by_others(site: Site, browser: Browser) -> None:
    with visit(browser) as visitor, visit(browser) as other:
        page = open_page(visitor, f"{site.url}/direct")
        ask(page, "Share this.")
        expect(page.locator("#direct-share")).to_be_enabled()
        page.locator("#direct-share").click()
        link = page.locator("#direct-link a").get_attribute("href")
        assert link
        reader = other.new_page()
        reader.goto(f"{site.url}/{link.removeprefix('./')}")
        expect(reader.locator("#shared-chat-a .user-row")).to_have_text("Share this.")
        expect(reader.locator("#shared-head-a .who")).to_have_text(sorted(MODELS)[0])
        reader.goto(f"{site.url}/shared?key=made-up")
        expect(reader.locator("#shared-status")).to_contain_text("no such conversation")


@pytest.mark.slow
def test_no_vote_is_lost_when_the_server_is_killed_and_the_page_goes_on_with_the_next_one(
    mesh: Mesh, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("killed")
    with Site(folder, mesh.gateway.url, "--votes-per-day", "1") as site, visit(browser) as visitor:
        with Tap(site.wait_ready().url) as tap:
            page = open_page(visitor, tap.url)
            ask(page, "Quick.")
            wait_vote(page)
            page.locator("#battle-vote-both_bad").click()
            expect(page.locator("#battle-status")).to_contain_text("Thanks")
            ask(page, "Once more.")
            wait_vote(page)
            page.locator("#battle-vote-a").click()
            expect(page.locator("#battle-status")).to_contain_text("At most 1 votes a day")
            site.kill()
            expect(page.get_by_role("alert")).to_contain_text("The connection was lost")
            with Site(folder, mesh.gateway.url, name="next") as following:
                tap.turn_to(following.wait_ready().url)
                expect(page.get_by_role("alert")).to_have_count(0)
                wait_vote(page)
                assert len(said(page).split()) == WORDS
                page.locator("#battle-vote-a").click()
                expect(page.locator("#battle-status")).to_contain_text("Thanks")
        votes = site.rows("SELECT choice, count(*) FROM votes GROUP BY choice ORDER BY choice")
        assert votes == [("a", 1), ("both_bad", 1)]


def test_a_gateway_that_is_not_there_is_told(browser: Browser, tmp_path: Path) -> None:
    with Site(tmp_path, "http://127.0.0.1:9") as site, visit(browser) as visitor:
        page = open_page(visitor, site.wait_ready().url)
        expect(page.locator("#battle-notice")).to_contain_text("cannot be reached")
        ask(page, "Anybody?")
        expect(page.locator("#battle-status")).to_contain_text("cannot be reached")
        expect(page.locator(".prompt textarea")).to_have_value("Anybody?")


def test_a_locked_database_is_told_and_the_vote_can_be_given_later(site: Site, browser: Browser) -> None:
    before = votes(site)
    with visit(browser) as visitor, closing(sqlite3.connect(site.store, isolation_level=None)) as other:
        page = open_page(visitor, site.url)
        ask(page, "Who holds the lock?")
        wait_vote(page)
        other.execute("BEGIN IMMEDIATE")
        page.locator("#battle-vote-tie").click()
        expect(page.locator("#battle-status")).to_contain_text("could not be kept just now")
        assert votes(site) == before
        other.execute("ROLLBACK")
        page.locator("#battle-vote-tie").click()
        expect(page.locator("#battle-status")).to_contain_text("Thanks")
    assert votes(site) == before + 1


def test_each_plot_is_saved_as_a_picture(site: Site, browser: Browser) -> None:
    with closing(open_store(str(site.store))) as store:
        fill(store, [(*MODELS, "a"), (*MODELS, "b")] * 10, voter="crowd")
    watch = Watch()
    with visit(browser) as visitor:
        page = visitor.new_page()
        page.set_default_timeout(PATIENCE)
        watch.look_at(page)
        page.goto(f"{site.url}/leaderboard")
        for title in ("Intervals", "Win rates", "Over time"):
            page.get_by_role("tab", name=title).click()
            expect(page.locator(".js-plotly-plot:visible .main-svg").first).to_be_visible()
            with page.expect_download() as download:
                page.locator("button.png:visible").click()
            assert download.value.path().read_bytes().startswith(b"\x89PNG"), title
    assert watch.errors == []
    assert watch.left == []
