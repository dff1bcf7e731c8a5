"""`python -m benchmarks.data`: the data tools on made-up conversations; a table for RESULTS.md, and a figure.

Each tool runs as a command of its own. "MiB" is the most that the command and its processes had at a moment, by
resident set, so that what they share counts for each: in the first tenth of the run, and in all of it. Memory that is
flat is the same in both. A busy machine slows the wall clock; MB per CPU second bears that. With --folder a run that
was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from benchmarks import machine
from benchmarks.data.figure import draw
from benchmarks.data.measure import Cost, measure
from benchmarks.data.synthetic import write, write_questions
from benchmarks.table import markdown, number

_ROOT: Final = Path(__file__).parents[2]
_TOKENIZER: Final = str(_ROOT / "mesh" / "demo" / "models" / "mesh-demo")
_CHAIN: Final = "steps: [clean, language, formats, quality, {dedup: {near: false}}, redact]\n"
# FILE is the made one, and FOLDER where it is.
_TOOLS: Final[Mapping[str, str]] = {
    "convert": "convert FILE",
    "merge, of two": "merge FILE FILE",
    "model": "model FILE --name model-a",
    "first-round": "first-round FILE",
    "train-test": "train-test FILE",
    "sample --count": "sample FILE --count 10000",
    "dedup --no-near": "dedup FILE --no-near",
    "formats": "formats FILE",
    "language": "language FILE",
    "stats": "stats FILE",
    "decontaminate": "decontaminate FILE --benchmark FOLDER/questions.jsonl",
    "quality": "quality FILE",
    "redact": "redact FILE",
    "dedup": "dedup FILE",
    "clean": "clean FILE",
    "split": f"split FILE --tokenizer {_TOKENIZER} --max-tokens 2048",
    "run, six of them": "run FOLDER/chain.yaml FILE",
}
_HEADER: Final = ("tool", "processes", "MB/s", "MB per CPU s", "MiB, first tenth", "MiB, all")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the file (default: 1000)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="to compare (default: 1 2)")
    parser.add_argument("--tools", nargs="+", choices=tuple(_TOOLS), default=list(_TOOLS), help="which (default: all)")
    parser.add_argument("--folder", type=Path, help="where the made file and what was measured stay (default: nowhere)")
    parser.add_argument("--figure", type=Path, help="draw memory over each run here, as SVG")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder: Path = given.folder or Path(name)
        folder.mkdir(exist_ok=True)
        print("\n".join(f"- {line}" for line in machine.describe().lines()))
        file = _made(folder, given.megabytes)
        costs = [_cost(folder, file, tool, count) for count in given.processes for tool in given.tools]
    size = given.megabytes
    print(f"- made-up conversations of {size} MB\n")
    print(markdown(_HEADER, [_row(cost) for cost in sorted(costs, key=lambda cost: given.tools.index(cost.tool))]))
    if given.figure:
        given.figure.write_text(
            draw(costs, f"Memory of each tool on {size:,} MB, from the beginning of a run to its end")
        )


def _made(folder: Path, megabytes: int) -> Path:
    """The file, and what tools need besides it."""
    (folder / "chain.yaml").write_text(_CHAIN)
    file = folder / f"{megabytes}.jsonl"
    if not file.exists():
        write(file, megabytes * 10**6)
        write_questions(file, folder / "questions.jsonl")
    return file


def _cost(folder: Path, file: Path, tool: str, processes: int) -> Cost:
    """Measured now, or before by a run that was stopped."""
    kept = folder / f"{file.stem} {tool} {processes}.json"
    if kept.exists():
        return msgspec.json.decode(kept.read_bytes(), type=Cost)
    words = [word.replace("FILE", str(file)).replace("FOLDER", str(folder)) for word in _TOOLS[tool].split()]
    size = words.count(str(file)) * file.stat().st_size
    cost = measure(tool, words, processes, size, folder / "out.jsonl")
    kept.write_bytes(msgspec.json.encode(cost))
    return cost


def _row(cost: Cost) -> Sequence[str]:
    speed = number(cost.size / cost.wall / 10**6), number(cost.size / cost.cpu / 10**6)
    return [
        cost.tool,
        str(cost.processes),
        *speed,
        f"{max(cost.memory[: len(cost.memory) // 10]):.0f}",
        f"{max(cost.memory):.0f}",
    ]


if __name__ == "__main__":
    main()
