"""Memory over each run, a small plot for each tool, as SVG that reads on light and dark ground."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from benchmarks.data.measure import Cost

_GREY: Final = "#7a7f87"
_COLOURS: Final = ("#2f6fd0", "#d1603d")
_COLUMNS: Final = 4
_WIDTH, _HEIGHT = 190, 120
_INNER: Final = (150, 70)


def draw(costs: Sequence[Cost], title: str) -> str:
    """A plot for each tool, all of one scale; a line for each number of processes."""
    tools = list(dict.fromkeys(cost.tool for cost in costs))
    counts = sorted({cost.processes for cost in costs})
    top = 100 * -(-int(max(max(cost.memory) for cost in costs)) // 100)
    rows = -(-len(tools) // _COLUMNS)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_COLUMNS * _WIDTH + 40} {rows * _HEIGHT + 60}"',
        f'font-family="sans-serif" font-size="12" fill="{_GREY}">',
        f'<text x="10" y="22" font-size="15">{escape(title)}</text>',
    ]
    for place, count in enumerate(counts):
        name = f"{count} process" if count == 1 else f"{count} processes"
        parts.append(f'<text x="{10 + 110 * place}" y="42" fill="{_COLOURS[place]}">{name}</text>')
    for place, tool in enumerate(tools):
        corner = 45 + _WIDTH * (place % _COLUMNS), 60 + _HEIGHT * (place // _COLUMNS)
        parts += _panel(tool, [cost for cost in costs if cost.tool == tool], counts, corner, top)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(tool: str, costs: Sequence[Cost], counts: Sequence[int], corner: tuple[int, int], top: int) -> Iterator[str]:
    (left, upper), (width, height) = corner, _INNER
    yield f'<text x="{left}" y="{upper + 10}">{escape(tool)}</text>'
    upper += 18
    yield f'<path d="M{left} {upper}v{height}h{width}" fill="none" stroke="{_GREY}"/>'
    yield f'<text x="{left - 5}" y="{upper + 8}" text-anchor="end" font-size="10">{top}</text>'
    yield f'<text x="{left - 5}" y="{upper + height}" text-anchor="end" font-size="10">0 MiB</text>'
    for cost in costs:
        last = len(cost.memory) - 1
        points = " ".join(
            f"{left + width * place / last:.1f},{upper + height * (1 - memory / top):.1f}"
            for place, memory in enumerate(cost.memory)
        )
        colour = _COLOURS[counts.index(cost.processes)]
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
