"""The report's plots, as SVG: bars with intervals, a radar by category, a heat map of pairs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

from benchmarks.mt_bench.stats import Mean

# Told apart by people who see no difference of red and green as well (after Okabe and Ito), light and dark.
COLOURS: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a63d2", "#7f7f7f")
_LABEL, _VALUE, _BAR, _ROW = 184, 46, 210, 34
# Pairs of more models than these have small squares, and names that stand upright below them.
FEW: Final = 8


def colours(models: Iterable[str]) -> dict[str, str]:
    """A colour for each model, the same in all plots."""
    return {model: COLOURS[place % len(COLOURS)] for place, model in enumerate(sorted(set(models)))}


def bars(rows: Sequence[tuple[str, Mean]], low: float, high: float, digits: int, colour: Mapping[str, str]) -> str:
    """A bar for each model from `low` to `high`, with its interval as a whisker and its value."""
    height = _ROW * len(rows) + 24
    width = _LABEL + _BAR + _VALUE
    parts = [_ticks(low, high, height)]
    for place, (name, mean) in enumerate(rows):
        top = _ROW * place
        parts.append(_text(_LABEL - 10, top + 22, _cut(name, 22), anchor="end", title=name))
        if mean.n:
            parts.append(_bar(top, mean, low, high, colour[name]))
            parts.append(_text(_LABEL + _BAR + 8, top + 22, f"{mean.value:.{digits}f}", style="font-weight:600"))
        else:
            parts.append(_text(_LABEL + 8, top + 22, "nothing counted", style="opacity:.6"))
    return _svg(width, height, parts, "Bars of the models with intervals of 95 %", largest=1.2)


def _bar(top: int, mean: Mean, low: float, high: float, fill: str) -> str:
    def at(value: float) -> float:
        return _LABEL + _BAR * (value - low) / (high - low)

    end = max(at(mean.value) - _LABEL, 0.0)
    bar = f'<rect x="{_LABEL}" y="{top + 8}" width="{end:.1f}" height="18" rx="3" fill="{fill}" fill-opacity=".85"/>'
    if mean.low is None or mean.high is None:
        return bar
    left, right, middle = at(mean.low), at(mean.high), top + 17
    line = f"M{left:.1f} {middle}H{right:.1f}M{left:.1f} {middle - 5}v10M{right:.1f} {middle - 5}v10"
    return bar + f'<path d="{line}" stroke="currentColor" stroke-width="1.6" fill="none"/>'


def _ticks(low: float, high: float, height: int) -> str:
    parts: list[str] = []
    for step in range(6):
        value = low + (high - low) * step / 5
        x = _LABEL + _BAR * step / 5
        parts.append(f'<line x1="{x}" x2="{x}" y1="2" y2="{height - 20}" stroke="currentColor" stroke-opacity=".12"/>')
        parts.append(_text(x, height - 5, f"{value:g}", anchor="middle", style="font-size:11px;opacity:.65"))
    return "".join(parts)


def radar(
    categories: Sequence[str],
    series: Sequence[tuple[str, Mapping[str, Mean]]],
    colour: Mapping[str, str],
    highest: float = 10.0,
) -> str:
    """Means by category, a polygon for each model; a category without a mean is left out of its polygon."""
    width, height, reach = 460, 372, 148

    def point(place: int, value: float) -> tuple[float, float]:
        angle = 2 * math.pi * place / len(categories) - math.pi / 2
        along = reach * value / highest
        return width / 2 + along * math.cos(angle), height / 2 + along * math.sin(angle)

    parts: list[str] = []
    for ring in range(1, 6):
        value = highest * ring / 5
        parts.append(_polygon([point(place, value) for place in range(len(categories))], 'class="grid"'))
        y = height / 2 - reach * ring / 5 + 12
        parts.append(_text(width / 2 + 4, y, f"{value:g}", style="font-size:10px;opacity:.55"))
    for place, name in enumerate(categories):
        x, y = point(place, highest * 1.12)
        anchor = "middle" if abs(x - width / 2) < 20 else "start" if x > width / 2 else "end"
        parts.append(_text(x, y + 4, name, anchor=anchor))
    for name, means in series:
        corners = [
            point(at, means[category].value)
            for at, category in enumerate(categories)
            if category in means and means[category].n
        ]
        style = f'stroke="{colour[name]}" fill="{colour[name]}" fill-opacity=".06" stroke-width="2.2"'
        parts.append(_polygon(corners, style, title=name))
    return _svg(width, height, parts, "Radar of the means by category")


def heat(models: Sequence[str], rates: Mapping[tuple[str, str], float]) -> str:
    """Adjusted win rates: how the model of the row fares against that of the column."""
    few = len(models) <= FEW
    cell, label, below = (92 if len(models) <= 4 else 64, 150, 40) if few else (32, 190, 190)
    side = cell * len(models)
    parts: list[str] = []
    for row, name in enumerate(models):
        middle = cell * (row + 0.5)
        parts.append(_text(label - 10, middle + 4, _cut(name, 20 if few else 23), anchor="end", title=name))
        if few:
            parts.append(_text(label + middle, side + 18, _cut(name, cell // 7), anchor="middle", title=name))
        else:
            parts.append(_upright(label + middle + 4, side + 10, _cut(name, 23), title=name))
        for column, other in enumerate(models):
            value = rates.get((name, other))
            if row != column and value is not None:
                parts.append(_square(label + cell * column, cell * row, cell, value, f"{name} against {other}"))
    return _svg(label + side + 8, side + below, parts, "Heat map of the pairs")


def _square(x: float, y: float, size: int, value: float, title: str) -> str:
    fill = "#0072b2" if value > 0.5 else "#d55e00"
    strength = min(1.0, abs(value - 0.5) * 2)
    gap = size // 32
    shape = f'x="{x + gap}" y="{y + gap}" width="{size - 2 * gap}" height="{size - 2 * gap}" rx="{size // 10}"'
    number, style = (
        (f"{value:.2f}", "font-weight:600") if size > 32 else (f"{value:.2f}".lstrip("0"), "font-size:10.5px")
    )
    return (
        f'<g><title>{escape(title)}: {value:.3f}</title><rect {shape} fill="currentColor" fill-opacity=".05"/>'
        f'<rect {shape} fill="{fill}" fill-opacity="{0.75 * strength:.3f}"/>'
        + _text(x + size / 2, y + size / 2 + 4, number, anchor="middle", style=style)
        + "</g>"
    )


def _polygon(corners: Sequence[tuple[float, float]], style: str, title: str = "") -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    inner = f"<title>{escape(title)}</title>" if title else ""
    return f'<polygon points="{points}" {style}>{inner}</polygon>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", style: str = "", title: str = "") -> str:
    inner = f"<title>{escape(title)}</title>" if title and title != text else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{style}">{inner}{escape(text)}</text>'


def _upright(x: float, y: float, text: str, *, title: str) -> str:
    """Read from below, with its end at the top."""
    return f'<g transform="translate({x:.1f} {y:.1f}) rotate(-90)">{_text(0, 0, text, anchor="end", title=title)}</g>'


def _cut(name: str, limit: int) -> str:
    """Without the organisation, then without its middle: names differ at their ends."""
    if len(name) > limit:
        name = name.rpartition("/")[2]
    end = (limit - 1) // 2
    return name if len(name) <= limit else f"{name[: limit - 1 - end]}…{name[-end:]}"


def _svg(width: float, height: float, parts: Sequence[str], label: str, largest: float = 1.0) -> str:
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:{width * largest:.0f}px"'
    return f'<svg {size} role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
