"""The plots of `mesh data stats`, on a page that needs no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, cast

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from mesh.counted import counted
from training.data.summary import Summary

_BINS: Final = 40
_BARS: Final = 15
# Told apart from the paper by everybody, in light and in dark surroundings.
_COLOUR: Final = "#0072b2"
_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 0; }
"""


def page(summary: Summary) -> str:
    """An HTML page: a histogram of each number, bars of languages, models and reasons."""
    parts = [f"<h1>{counted(summary.languages.total(), 'conversation')}</h1>"]
    for name, values in summary.numbers.items():
        parts.append(_section(f"{name[0].upper()}{name[1:]} of a conversation", _histogram(values)))
    bars = (("Languages", summary.languages), ("Models", summary.models), ("Dropped, by reason", summary.dropped))
    parts += [_section(title, _bars(counts)) for title, counts in bars if counts]
    script = f"<script>{get_plotlyjs()}</script>"
    head = f'<meta charset="utf-8"><title>Conversations</title><style>{_STYLE}</style>{script}'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _section(title: str, figure: Any) -> str:
    figure.update_layout(margin={"l": 10, "r": 10, "t": 10, "b": 10}, template="plotly_white", bargap=0.08)
    config = {"displaylogo": False, "responsive": True}
    html = cast("str", figure.to_html(full_html=False, include_plotlyjs=False, config=config))
    return f"<h2>{title}</h2>{html}"


def _histogram(values: Mapping[int, int]) -> Any:
    """Bars of equal width up to the value that all but one in a hundred stay below; the last bar holds the rest."""
    ordered = sorted(values.items())
    count, seen, top = sum(values.values()), 0, ordered[-1][0]
    for value, times in ordered:
        seen += times
        if seen >= 0.99 * count:
            top = value
            break
    width = max(1, -(-(top + 1) // _BINS))
    bins: Counter[int] = Counter()
    for value, times in ordered:
        bins[min(value, top) // width] += times
    last = max(bins)
    places = range(last + 1)
    bar = cast("Any", go).Bar(
        x=[place * width + (width - 1) / 2 for place in places],
        y=[bins[place] for place in places],
        width=0.92 * width,
        hovertext=[_label(place, width, ordered[-1][0] if place == last else None) for place in places],
        hoverinfo="text+y",
        marker_color=_COLOUR,
    )
    figure = cast("Any", go).Figure(bar)
    return figure.update_layout(height=260, yaxis=_counted(max(bins.values())))


def _counted(most: int) -> dict[str, Any]:
    """An axis of conversations, of which there are no halves."""
    return {"title": "conversations", "tickformat": ",d", "dtick": 1 if most < 6 else None}


def _label(place: int, width: int, most: int | None) -> str:
    low, high = place * width, place * width + width - 1 if most is None else most
    return f"{low:,}" if low >= high else f"{low:,}–{high:,}"


def _bars(counts: Counter[str]) -> Any:
    shown = counts.most_common(_BARS)[::-1]
    bar = cast("Any", go).Bar(
        x=[count for _, count in shown], y=[name for name, _ in shown], orientation="h", marker_color=_COLOUR
    )
    figure = cast("Any", go).Figure(bar)
    return figure.update_layout(height=90 + 28 * len(shown), xaxis=_counted(shown[-1][1]), yaxis={"automargin": True})
