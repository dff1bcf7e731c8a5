"""`python .ci/site.py [ROOT]`: builds the documentation of ROOT into ROOT/build/site (see `make site`).

What the generator lets pass is refused here: a page that the navigation leaves out, a link or anchor that leads
nowhere, and whatever a page would fetch from elsewhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

# Lets the search run where there is no server. The generator's offline mode fetches it from elsewhere; npm has it.
SHIM_URL = "https://unpkg.com/iframe-worker/shim"
SHIM = Path(__file__).parent.parent / "node_modules" / "iframe-worker" / "shim" / "index.js"
SHIM_PLACE = "assets/javascripts/iframe-worker.js"
# What a browser fetches by itself, without a click.
FETCHED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "srcset")}


class Page(HTMLParser):
    """The links and anchors of one page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        for name in ("href", "src", "srcset"):
            if name not in given or given.get("rel") in ("canonical", "next", "prev"):
                continue
            (self.fetched if (tag, name) in FETCHED else self.links).append(given[name])


def pages_of(nav: Any) -> Iterator[str]:
    """The pages that a navigation names, however deep."""
    if isinstance(nav, str):
        yield nav
    else:
        for item in nav.values() if isinstance(nav, dict) else nav:
            yield from pages_of(item)


def outside_navigation(root: Path) -> list[str]:
    """What of docs/ the navigation leaves out, and what it names in vain."""
    named = set(pages_of(tomllib.loads((root / "zensical.toml").read_text())["project"]["nav"]))
    there = {str(page.relative_to(root / "docs")) for page in (root / "docs").rglob("*.md")}
    return [
        *(f"docs/{page} is not in the navigation of zensical.toml" for page in sorted(there - named)),
        *(f"zensical.toml names docs/{page}, which is not there" for page in sorted(named - there)),
    ]


def own_the_shim(site: Path) -> None:
    """Have the pages load the shim from the site itself."""
    shutil.copyfile(SHIM, site / SHIM_PLACE)
    for file in site.rglob("*.html"):
        # The page of errors may be shown at any path: its links begin at the root.
        up = "/" if file.name == "404.html" else "../" * (len(file.relative_to(site).parts) - 1)
        file.write_text(file.read_text().replace(SHIM_URL, up + SHIM_PLACE))


def wrong_links(site: Path) -> list[str]:
    """Each link of each page that leads nowhere, and each file that a page would fetch from elsewhere."""
    pages = {file: Page(file.read_text()) for file in sorted(site.rglob("*.html"))}
    found: list[str] = []
    for file, page in pages.items():
        name = str(file.relative_to(site))
        found += [f"{name} fetches {url}" for url in page.fetched if urlsplit(url).netloc]
        for url in {*page.links, *page.fetched}:
            if (reason := _wrong(site, file, url, pages)) is not None:
                found.append(f"{name}: {url} {reason}")
    return sorted(found)


def _wrong(site: Path, file: Path, url: str, pages: dict[Path, Page]) -> str | None:
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return None
    path = unquote(parts.path)
    base = site if path.startswith("/") else file.parent
    target = Path(os.path.normpath(base / path.lstrip("/"))) if path else file
    if target.is_dir():
        target /= "index.html"
    if not target.is_relative_to(site) or not target.is_file():
        return "leads nowhere"
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
        return "names an anchor that is not there"
    return None


def main(root: Path) -> int:
    """Build; returns the exit code."""
    problems = outside_navigation(root)
    if not problems:
        build = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
        done = subprocess.run(build, cwd=root, check=False)
        if done.returncode:
            return done.returncode
        own_the_shim(root / "build" / "site")
        problems = wrong_links(root / "build" / "site")
    sys.stderr.write("".join(f"{problem}\n" for problem in problems))
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
