"""Chats with one model in a real browser: direct, with images, and with all that a prompt may try to do to a page."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from tests.e2e.webui_site import PATIENCE, PHONE, Site, Watch, ask, chromium, open_page, said, visit, wait_vote
from tests.harness import Mesh

MODEL = "parrot"
HOSTILE = """<img src=x onerror="window.broken=1"><script>window.broken=1</script><svg onload="window.broken=1">
<a href="javascript:window.broken=1" id="link">link</a> [also](javascript:window.broken=1)
![out](http://192.0.2.1/seen.png) <iframe src="http://192.0.2.1/"></iframe>
$$\\href{javascript:window.broken=1}{x} \\includegraphics{http://192.0.2.1/seen.png}$$
<style>body{display:none}</style><form action="http://192.0.2.1/"><button>go</button></form>"""
WIDE = f"""```
{"code " * 40}
```

|{"head|" * 12}
|{"---|" * 12}
|{"cell|" * 12}

$$ {"a + " * 60} b $$

مرحبا
"""

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """One model, which sees, and says what it was told."""
    args = ("--engine", "scripted", "--script-text", "echo", "--script-vision")
    with Mesh(tmp_path_factory.mktemp("mesh"), workers=0, worker_args=args) as running:
        running.add_worker("--model-name", MODEL)
        yield running


@pytest.fixture(scope="module")
def site(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site"), mesh.gateway.url) as running:
        yield running.wait_ready()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


def photo(path: Path) -> Path:
    """A JPEG with a remark in its metadata."""
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    Image.new("RGB", (64, 48), "teal").save(path, exif=exif)
    return path


def test_pages_that_nobody_looks_at_are_nearly_idle(site: Site) -> None:
    process = psutil.Process(site.pid)
    before = process.num_ctx_switches().voluntary
    process.cpu_percent(interval=1)
    assert process.num_ctx_switches().voluntary - before < 300


def test_nothing_that_is_said_is_executed_or_fetched(site: Site, browser: Browser) -> None:
    answered: list[str] = []
    with visit(browser) as visitor:
        page = open_page(visitor, f"{site.url}/direct")
        page.on("response", lambda response: answered.append(response.url))
        ask(page, HOSTILE)
        expect(page.locator("#direct-again")).to_be_enabled()
        expect(page.locator("#direct-chat-a .bot-row")).to_contain_text("also")
        said_here = page.locator("#direct-chat-a .message-content")
        assert said_here.locator("script, iframe, style, [onerror], [onload], a[href^='javascript']").count() == 0
        said_here.get_by_text("also").first.click()
        assert page.evaluate("window.broken") is None
        assert page.locator("#direct-prompt").is_visible()
        # A form may stand there, but it may not be sent to anybody else.
        assert "form-action 'self'" in page.request.get(site.url).headers["content-security-policy"]
    assert answered
    assert [url for url in answered if not url.startswith(site.url)] == []


def test_what_is_wide_scrolls_in_its_place_and_is_reached_by_the_keyboard(site: Site, browser: Browser) -> None:
    with visit(browser, PHONE) as visitor:
        page = open_page(visitor, f"{site.url}/direct")
        ask(page, WIDE)
        expect(page.locator("#direct-again")).to_be_enabled()
        answer = page.get_by_role("log", name="Answers of model A").locator(".bot-row")
        for wide in ("pre", "table", ".katex-display"):
            expect(answer.locator(wide)).to_have_attribute("tabindex", "0")
            box = answer.locator(wide).bounding_box()
            assert box is not None
            assert box["x"] + box["width"] < PHONE[0], f"{wide} runs out of the screen"
        arabic = answer.get_by_text("مرحبا")
        assert (
            arabic.evaluate(
                "(p) => { const r = document.createRange(); r.selectNodeContents(p);"
                "return r.getBoundingClientRect().left - p.getBoundingClientRect().left; }"
            )
            > 50
        )
        expect(page.get_by_role("status").first).to_be_attached()
        expect(page.get_by_role("heading", level=1)).to_have_text("Direct chat")


def test_a_prompt_that_is_too_long_is_refused_and_not_lost(site: Site, browser: Browser) -> None:
    with visit(browser) as visitor:
        page = open_page(visitor, f"{site.url}/direct")
        page.locator(".prompt textarea").evaluate("(box) => { box.value = 'x'.repeat(10 ** 6); }")
        page.locator(".prompt textarea").dispatch_event("input")
        page.locator(".prompt .submit-button").click()
        expect(page.locator("#direct-status")).to_contain_text("1,000,000 characters")
    assert site.rows("SELECT count(*) FROM turns WHERE length(prompt) > 100000") == [(0,)]


def test_an_image_is_shown_to_a_model_that_sees_and_kept_without_metadata(
    site: Site, browser: Browser, tmp_path: Path
) -> None:
    watch = Watch()
    with visit(browser) as visitor:
        page = open_page(visitor, f"{site.url}/direct", watch)
        page.get_by_text("Show an image").click()
        page.locator("#direct-image input[type=file]").set_input_files(photo(tmp_path / "photo.jpg"))
        expect(page.locator("#direct-image img")).to_be_visible()
        ask(page, "What is this?")
        expect(page.locator("#direct-chat-a .bot-row")).to_contain_text("[image ")
        expect(page.locator("#direct-chat-a .user-row img")).to_be_visible()
    assert watch.errors == []
    data = site.rows("SELECT data FROM pictures")[0][0]
    assert b"taken at home" not in data
    assert Image.open(io.BytesIO(data)).size == (64, 48)


def test_a_sample_image_and_a_file_that_is_none(site: Site, browser: Browser, tmp_path: Path) -> None:
    with visit(browser) as visitor:
        page = open_page(visitor, f"{site.url}/direct")
        page.get_by_text("Show an image").click()
        broken = tmp_path / "broken.png"
        broken.write_bytes(b"\x89PNG\r\n\x1a\nnot an image")
        page.locator("#direct-image input[type=file]").set_input_files(broken)
        ask(page, "And this?")
        expect(page.locator("#direct-status, .toast-body")).to_contain_text("no picture that can be read")
        page.get_by_role("button", name="Chart").click()
        expect(page.locator(".prompt textarea")).not_to_have_value("And this?")
        page.locator(".prompt .submit-button").click()
        expect(page.locator("#direct-chat-a .bot-row")).to_contain_text("[image ")


def test_a_battle_of_images_begins_when_a_second_model_has_come(mesh: Mesh, site: Site, browser: Browser) -> None:
    with visit(browser) as visitor:
        page = open_page(visitor, site.url)
        expect(page.locator("#battle-notice")).to_contain_text("A battle needs 2 models")
        expect(page.locator("#battle-notice a")).to_be_visible()
        expect(page.locator("#battle-notice a")).to_have_attribute("href", "./direct")
        ask(page, "Anybody?")
        expect(page.locator("#battle-status")).to_contain_text("needs two models")
        mesh.add_worker("--model-name", "myna")
        expect(page.locator("#battle-images")).to_be_visible()
        page.get_by_text("Show an image").click()
        page.get_by_role("button", name="Shapes").click()
        expect(page.locator(".prompt textarea")).not_to_have_value("Anybody?")
        page.locator(".prompt .submit-button").click()
        wait_vote(page)
        assert "[image " in said(page, side="b")
        page.locator("#battle-vote-a").click()
        expect(page.locator("#battle-status")).to_contain_text("Thanks")
    assert site.rows("SELECT modality FROM battles WHERE mode = 'battle'") == [("image",)]


def test_the_single_page_has_one_model_and_terms_to_agree_to(
    mesh: Mesh, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("single")
    terms = folder / "terms.md"
    terms.write_text("## Terms\n\nBe kind.")
    with (
        Site(folder, mesh.gateway.url, "--single", MODEL, "--terms", str(terms)) as site,
        visit(browser) as visitor,
    ):
        page = visitor.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(site.wait_ready().url)
        expect(page.get_by_role("heading", name="Terms")).to_be_visible()
        expect(page.locator(".prompt textarea")).to_be_hidden()
        page.get_by_role("button", name="I have read this, and agree").click()
        expect(page.locator(".prompt textarea")).to_be_editable()
        assert site.rows("SELECT count(*) FROM agreements") == [(1,)]
        page.reload()
        ask(page, "Say this.")
        expect(page.locator("#direct-chat-a .bot-row")).to_contain_text("Say this.")
        assert page.locator("nav, #direct-model-a").count() == 0
        assert page.goto(f"{site.url}/leaderboard").status == 404  # pyright: ignore[reportOptionalMemberAccess]
