"""`python -m benchmarks.arena`: prints tables for RESULTS.md and draws the two figures of docs/leaderboard.md.

--quick makes fewer runs; --timing measures the rating engine alone, and --load battles at once on the pages, both on a
quiet machine; --figures says where to draw.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from html import escape
from pathlib import Path

from benchmarks import machine
from benchmarks.arena import load, sampling, timing, voters
from benchmarks.table import markdown, number

_COLOURS = ("#2f6fd0", "#d1603d", "#7a7f87")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arena", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer runs")
    parser.add_argument("--timing", action="store_true", help="the rating engine's times alone")
    parser.add_argument("--load", action="store_true", help="battles at once on the pages, with scripted models, alone")
    parser.add_argument("--battles", type=int, default=60, help="how many (60)")
    parser.add_argument("--seconds", type=float, default=20.0, help="that an answer takes (20)")
    parser.add_argument("--figures", type=Path, default=Path("docs/images"), help="folder for the figures")
    given = parser.parse_args()
    print("\n".join(machine.describe().lines()) + "\n")
    if given.timing:
        rows = [[name, number(seconds), apart] for name, seconds, apart in timing.measure()]
        print(markdown([f"{timing.BATTLES:,} battles, {timing.MODELS} models", "s", "from the exact fit"], rows))
        return
    if given.load:
        print(_load(load.run(given.battles, given.seconds)))
        return
    runs = range(2 if given.quick else 10)
    print(_sampling(list(runs), given.figures) + "\n")
    print(_voters(list(runs)[:5], given.figures))


def _load(found: load.Load) -> str:
    header = ["battles at once", "whole", "updates", "lag p50 ms", "p95 ms", "CPU of the pages, s a battle"]
    lags = [f"{1000 * each:.0f}" for each in (found.median, found.late)]
    return markdown(header, [[f"{found.battles}", f"{found.whole}", f"{found.updates:,}", *lags, number(found.cpu)]])


def _sampling(seeds: Sequence[int], folder: Path) -> str:
    late = {rule: sampling.curve(seeds, by_rule=rule, newcomers=sampling.NEWCOMERS) for rule in (True, False)}
    at_once = {rule: sampling.curve(seeds, by_rule=rule) for rule in (True, False)}
    lines: dict[str, list[tuple[float, float]]] = {
        name: [(x, y) for x, y in zip(late[rule].votes, late[rule].widest.tolist(), strict=True) if y < 150]
        for rule, name in ((True, "by rule"), (False, "evenly"))
    }
    title = f"Widest interval; {sampling.NEWCOMERS} of {sampling.MODELS} models join after {sampling.ARRIVAL:,} votes"
    (folder / "arena_sampling.svg").write_text(plot(title, "votes", "± points", lines))
    rows: list[list[str]] = []
    for width in (60, 50, 40):
        for name, found, after in (("all from the start", at_once, 0), ("newcomers", late, sampling.ARRIVAL)):
            needed = [sampling.votes_for(found[rule], width, after=after) for rule in (True, False)]
            rows.append([f"±{width} points, {name}", *(f"{each:,.0f}" for each in needed)])
    return markdown(["votes until the widest interval is", "by rule", "evenly"], rows)


def _voters(seeds: Sequence[int], folder: Path) -> str:
    rows: list[list[str]] = []
    lines: dict[str, list[tuple[float, float]]] = {kind: [] for kind in voters.KINDS}
    for kind in voters.KINDS:
        for votes in voters.VOTES:
            power, wrong = voters.rates(kind, votes, seeds)
            paper, _ = voters.rates(kind, votes, seeds[:1], smoothed=False)
            lines[kind].append((votes, 100 * power))
            rows.append([f"{kind}, {votes} votes each", f"{power:.0%}", f"{wrong:.2%}", f"{paper:.0%}"])
    title = f"Adversaries found at α = {voters.ALPHA:g}"
    (folder / "arena_voters.svg").write_text(plot(title, "votes of each voter", "% found", lines))
    return markdown(["adversaries who vote", "found", "honest suspected", "found with the paper's p"], rows)


def plot(title: str, across: str, up: str, lines: dict[str, list[tuple[float, float]]]) -> str:
    """Lines as a small SVG that reads on light and dark ground."""
    points = [point for line in lines.values() for point in line]
    right, top = max(x for x, _ in points), max(y for _, y in points)

    def at(x: float, y: float) -> str:
        return f"{60 + 500 * x / right:.1f},{260 - 210 * y / top:.1f}"

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 310" font-family="sans-serif" font-size="13"',
        'fill="#7a7f87">',
        f'<text x="60" y="24" font-size="15">{escape(title)}</text>',
        '<path d="M60 50V260H560" fill="none" stroke="#7a7f87"/>',
        f'<text x="310" y="300" text-anchor="middle">{escape(across)}</text><text x="8" y="44">{escape(up)}</text>',
    ]
    for part in (0, 0.5, 1):
        parts.append(f'<text x="{60 + 500 * part}" y="278" text-anchor="middle">{right * part:,.0f}</text>')
        parts.append(f'<text x="54" y="{264 - 210 * part}" text-anchor="end">{top * part:.0f}</text>')
    for index, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[index]
        path = " ".join(at(x, y) for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="575" y="{70 + 22 * index}" fill="{colour}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
