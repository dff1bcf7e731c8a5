"""HTML of chat pages as Markdown: blocks of code with their language, tables and lists stay what they are."""

from __future__ import annotations

import re
from typing import Any, Final, cast

from bs4 import BeautifulSoup, Tag
from markdownify import MarkdownConverter

# The page around the text: what a button says is no part of an answer.
_CHROME: Final = ("button", "svg", "script", "style", "noscript", "template", "form", "input", "select", "textarea")
_BLOCKS: Final = "p|div|pre|ul|ol|li|table|thead|tbody|tr|td|th|blockquote|h[1-6]|article|section"
_CLOSED_BLOCK: Final = re.compile(rf"</(?:{_BLOCKS})\s*>", re.IGNORECASE)
_CODE: Final = re.compile(r"^(`{3,}|~{3,}).*?(?:^\1[ \t]*$|\Z)|(`+)[^`].*?\2", re.DOTALL | re.MULTILINE)
_LANGUAGE: Final = re.compile(r"(?:language|lang|highlight|brush)[-:]([\w+#.-]+)")
_BLANK_LINES: Final = re.compile(r"\n[ \t]*(?:\n[ \t]*){2,}")


def looks_like_html(text: str) -> bool:
    """Whether a text is HTML, and not Markdown that tells of HTML in its code."""
    if _CLOSED_BLOCK.search(text) is None:
        return False
    return text.lstrip().startswith("<") or _CLOSED_BLOCK.search(without_code(text)) is not None


def without_code(text: str) -> str:
    """Markdown without its code, in blocks and in lines."""
    return _CODE.sub(" ", text)


def to_markdown(html: str) -> str:
    """The text of HTML as Markdown."""
    soup = BeautifulSoup(html, "html.parser")
    for element in soup.find_all(_CHROME):
        element.decompose()
    for formula in soup.select(".katex"):
        _write_as_tex(formula)
    text = _Converter().convert_soup(soup)
    return _squeezed(text).strip()


def _write_as_tex(formula: Tag) -> None:
    """KaTeX's page holds a formula twice, as MathML and as drawn, and its source in between."""
    source = formula.select_one('annotation[encoding="application/x-tex"]')
    if source is None:
        return
    shown = formula.parent is not None and "katex-display" in _classes(formula.parent)
    sign = "$$" if shown else "$"
    formula.replace_with(f"{sign}{source.get_text().strip()}{sign}")


def _squeezed(text: str) -> str:
    """No more than one blank line at a time, but in blocks of code."""
    pieces: list[str] = []
    end = 0
    for block in _CODE.finditer(text):
        pieces += [_BLANK_LINES.sub("\n\n", text[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*pieces, _BLANK_LINES.sub("\n\n", text[end:])])


class _Converter(MarkdownConverter):
    """markdownify's, with blocks of code as chat pages build them: a bar that names the language, then the code."""

    def __init__(self) -> None:
        super().__init__(heading_style="ATX", bullets="-", escape_asterisks=False, escape_underscores=False)

    def convert_td(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        return cast("Any", super()).convert_td(el, text.replace("|", "\\|"), parent_tags)

    def convert_th(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        return cast("Any", super()).convert_th(el, text.replace("|", "\\|"), parent_tags)

    def convert_pre(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        code = el.find("code")
        block = (code if isinstance(code, Tag) else el).get_text()
        if not block.strip():
            return ""
        fence = "`" * max(3, 1 + _longest_ticks(block))
        block = block.strip("\n")
        return f"\n\n{fence}{_language(el, code if isinstance(code, Tag) else None)}\n{block}\n{fence}\n\n"


def _longest_ticks(block: str) -> int:
    return max((len(run) for run in re.findall(r"^`+", block, re.MULTILINE)), default=0)


def _language(block: Tag, code: Tag | None) -> str:
    """By the class of the code or of the block, else by what the bar above the code says."""
    for element in (code, block):
        if element is not None and (named := _LANGUAGE.search(" ".join(_classes(element)))):
            return named[1].lower()
    if code is None:
        return ""
    code.extract()
    bar = block.get_text(" ", strip=True).split()
    return bar[0].lower() if len(bar) == 1 and re.fullmatch(r"[\w+#.-]{1,20}", bar[0]) else ""


def _classes(element: Tag) -> list[str]:
    return [str(name) for name in element.get_attribute_list("class") if name]
