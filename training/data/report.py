"""What a run tells at its end: what each tool took, kept, dropped and changed, and where the rest is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mesh.counted import counted
from training.data.segment import Named, Tally


def tallies(tools: Sequence[Named], found: Sequence[Tally]) -> Iterator[RenderableType]:
    """A line for each tool, and a table of reasons and changes where there are any."""
    for named, tally in zip(tools, found, strict=True):
        dropped = tally.dropped.total()
        line = f"{named.name}: {counted(tally.taken, 'conversation')}, {tally.kept:,} kept, {dropped:,} dropped"
        yield Text(line, style="bold")
        if tally.dropped:
            yield _counts("dropped because of", "conversations", tally.dropped)
        if tally.changed:
            yield _counts("changed", "times", tally.changed)


def unreadable(count: int) -> Iterator[RenderableType]:
    """Nothing where all could be read."""
    if count:
        yield Text(f"unreadable: {counted(count, 'record')}", style="bold red")


def written(files: Mapping[Path, int]) -> Iterator[RenderableType]:
    """What is where."""
    for path, count in files.items():
        yield Text(f"{path}: {counted(count, 'conversation')}")


def _counts(title: str, unit: str, counts: Mapping[str, int]) -> RenderableType:
    table = Table(title, box=None, header_style="dim", pad_edge=False)
    table.add_column(unit, justify="right")
    for what, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
        table.add_row(Text(what), f"{count:,}")
    return Padding(table, (0, 0, 0, 2), expand=False)
