"""The documentation: generated pages are current, the navigation is complete, and links lead somewhere."""

from __future__ import annotations

import re
import runpy
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SITE = runpy.run_path(str(ROOT / ".ci/site.py"))
_LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)[^)]*\)")
_PREFIX = re.compile(r"\"(MESH_[A-Z]+_)\"")


@pytest.mark.parametrize("name", ["settings", "errors", "protos"])
def test_a_generated_page_is_current(name: str) -> None:
    page: Callable[[], str] = runpy.run_path(str(ROOT / f".ci/reference/{name}.py"))["page"]
    assert (ROOT / f"docs/{name}.md").read_text() == page() + "\n", "run make docs"


def test_the_settings_are_those_of_all_commands() -> None:
    """Whoever parses settings says how their variables begin."""
    page = (ROOT / "docs/settings.md").read_text()
    rooms = ("mesh", "gateway", "webui", "benchmarks", "training")
    files = [file for room in rooms for file in (ROOT / room).rglob("*.py")]
    prefixes = {found for file in files for found in _PREFIX.findall(file.read_text())}
    assert len(prefixes) > 8
    assert not [prefix for prefix in prefixes if prefix not in page]


def test_the_notice_names_what_an_installation_brings() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    [everything] = [re.fullmatch(r"inference-mesh\[(.*)\]", each) for each in extras["all"]]
    assert everything is not None
    wanted = [*project["dependencies"], *(each for extra in everything[1].split(",") for each in extras[extra])]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=;~ ]", each)[0]).lower() for each in wanted}
    noticed = {line.split(" | ")[0].removeprefix("| ") for line in (ROOT / "THIRD_PARTY.md").read_text().splitlines()}
    assert len(names) > 30
    assert names <= noticed, "run make notices"


def test_every_page_is_in_the_navigation() -> None:
    assert SITE["outside_navigation"](ROOT) == []


@pytest.mark.parametrize(
    "file", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda file: file.name
)
def test_links_lead_to_files(file: Path) -> None:
    links = _LINK.findall(file.read_text())
    assert not [link for link in links if not (file.parent / link).exists()]
    if file.name != "README.md":  # the site has nothing but docs/
        assert not [link for link in links if link.startswith("..")]


def test_a_page_that_the_navigation_leaves_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/lost.md").write_text("# Lost\n")
    (tmp_path / "zensical.toml").write_text('[project]\nnav = [{ "Start" = ["gone.md"] }]\n')
    assert SITE["outside_navigation"](tmp_path) == [
        "docs/lost.md is not in the navigation of zensical.toml",
        "zensical.toml names docs/gone.md, which is not there",
    ]


@pytest.mark.parametrize(
    ("html", "problem"),
    [
        ('<a href="other.html#here">x</a>', None),
        ('<a href="https://example.org">x</a>', None),
        ('<img src="data:image/png;base64,AA==">', None),
        ('<a href="gone.html">x</a>', "page.html: gone.html leads nowhere"),
        ('<a href="../outside.html">x</a>', "page.html: ../outside.html leads nowhere"),
        ('<a href="other.html#gone">x</a>', "page.html: other.html#gone names an anchor that is not there"),
        ('<script src="https://cdn.example.org/a.js"></script>', "page.html fetches https://cdn.example.org/a.js"),
        ('<link rel="stylesheet" href="//fonts.example.org/a">', "page.html fetches //fonts.example.org/a"),
    ],
)
def test_what_the_site_may_link_and_fetch(tmp_path: Path, html: str, problem: str | None) -> None:
    (tmp_path / "other.html").write_text('<h1 id="here">Other</h1>')
    (tmp_path / "page.html").write_text(html)
    wrong: Callable[[Path], list[Any]] = SITE["wrong_links"]
    assert wrong(tmp_path) == ([problem] if problem else [])
