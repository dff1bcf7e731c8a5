"""The arena's web server as a person runs it, and a browser in front of it that sees and keeps everything."""

from __future__ import annotations

import select
import socket
import sqlite3
import threading
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, Request, expect, sync_playwright

from tests.harness import Process

_CHROMIUM: Final = "/usr/bin/chromium"
_ARGS: Final = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync""".split()
DESKTOP, PHONE = (1280, 900), (390, 844)
# A first load starts Gradio's scripts, beside other tests.
PATIENCE = 20_000
expect.set_options(timeout=PATIENCE)


class Site(Process):
    """`mesh-webui` on a free port, with a store of its own. `url` is known once `wait_ready` has returned."""

    def __init__(
        self, folder: Path, gateway: str, *args: str, name: str = "webui", env: Mapping[str, str] | None = None
    ) -> None:
        self.store = folder / "arena.sqlite3"
        self.url = ""
        given = ["--gateway", gateway, "--store", str(self.store), "--port", "0", *args]
        super().__init__(folder, name, ["-m", "webui", *given], env=env)

    def wait_ready(self) -> Self:
        """Wait until it serves pages."""
        self.url = str(self.wait_for_record("web pages listening")["url"])
        return self

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the database itself holds."""
        with closing(sqlite3.connect(self.store)) as database:
            return database.execute(query).fetchall()


class Tap:
    """A port that passes everything on to the site, and keeps what comes from it."""

    def __init__(self, url: str) -> None:
        self.turn_to(url)
        self._server = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._heard = bytearray()
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()

    def turn_to(self, url: str) -> None:
        """Pass on what comes from now on to another site."""
        self._target = (urlsplit(url).hostname or "", urlsplit(url).port or 0)

    def heard(self) -> bytes:
        """All that the site has sent so far."""
        with self._lock:
            return bytes(self._heard)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with client, suppress(ConnectionRefusedError), socket.create_connection(self._target) as site:
            while True:
                for ready in select.select([client, site], [], [])[0]:
                    try:
                        data = ready.recv(1 << 16)
                    except OSError:
                        return
                    if not data:
                        return
                    if ready is site:
                        with self._lock:
                            self._heard += data
                    (client if ready is site else site).sendall(data)


@dataclass
class Watch:
    """What went wrong in a page, or left the machine."""

    errors: list[str] = field(default_factory=list[str])
    left: list[str] = field(default_factory=list[str])

    def look_at(self, page: Page) -> None:
        """Keep an eye on a page."""
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._requested)

    def _requested(self, request: Request) -> None:
        if urlsplit(request.url).hostname not in ("127.0.0.1", None, ""):
            self.left.append(request.url)


@contextmanager
def chromium() -> Generator[Browser]:
    """A browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=_ARGS)
        yield browser
        browser.close()


def visit(browser: Browser, size: tuple[int, int] = DESKTOP) -> BrowserContext:
    """Another visitor, with no cookies."""
    # Not compressed, so that what a tap hears can be searched.
    return browser.new_context(
        viewport={"width": size[0], "height": size[1]}, extra_http_headers={"accept-encoding": "identity"}
    )


def open_page(context: BrowserContext, url: str, watch: Watch | None = None) -> Page:
    """A page that can be used."""
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    if watch is not None:
        watch.look_at(page)
    page.goto(url)
    expect(page.locator(".prompt textarea")).to_be_editable()
    return page


def ask(page: Page, prompt: str) -> None:
    """Write a prompt and send it."""
    box = page.locator(".prompt textarea")
    box.fill(prompt)
    box.press("Enter")


def wait_vote(page: Page, mode: str = "battle") -> None:
    """Wait until the vote is open."""
    expect(page.locator(f"#{mode}-vote-a")).to_be_enabled()


def said(page: Page, mode: str = "battle", side: str = "a") -> str:
    """The last answer of a side, as it is seen."""
    answers = page.locator(f"#{mode}-chat-{side} .bot-row").all()
    return answers[-1].inner_text().strip() if answers else ""
