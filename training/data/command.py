"""One run: files in, tools, files out, a report."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mesh.config import ConfigError, option
from training.data import report
from training.data.runner import Run
from training.data.segment import Named, Shape
from training.data.tool import DroppedItem, Item
from training.data.writing import STDOUT, Output, bad_line, check_output, dropped_line
from training.reading import STDIN, BadFile, BadRecord, Record, chunks

_SMALL: Final = 32 << 20
"""Bytes below which starting processes takes longer than the work."""
_TOLD: Final = 5
"""Records that cannot be read of which each is told; the rest are counted."""


@dataclass(frozen=True, kw_only=True)
class Files:
    """What every tool takes."""

    inputs: tuple[Path, ...] = option(
        (), "Files to read: JSON lines, JSON arrays or Parquet; - is standard input.", positional=True
    )
    output: Path | None = option(None, "The file to write: *.json is an array, else JSON lines; - is standard output.")
    to: Shape = option("openai", "The shape of what is written: openai (messages) or fastchat (conversations).")
    keep_dropped: Path | None = option(None, "Write what was dropped to this file, as JSON lines that say why.")
    strict: bool = option(False, "End at the first record that cannot be read, instead of counting it.")
    processes: int | None = option(None, "How many to work with. Default: all cores, one for small files.", low=1)


def run(tools: Sequence[Named], files: Files, output_required: bool = True) -> int:
    """The inputs through the tools; returns the exit code. Raises ConfigError, BadFile and OSError."""
    _check(tools, files, output_required)
    for named in tools:
        named.tool.check()
    to_stdout = STDOUT in _written(files).values()
    told = Console(stderr=to_stdout, soft_wrap=True, highlight=False)
    with ExitStack() as stack:
        output = stack.enter_context(Output(files.output)) if files.output else None
        sink = _Sink(files, stack, Console(stderr=True, soft_wrap=True, highlight=False))
        work = Run(tools, files.to, sink.bad, sink.dropped)
        for item in work.kept(sink.progress(), _processes(files)):
            if output is not None:
                output.write(item)
    for line in (*report.tallies(tools, work.tallies), *report.unreadable(sink.unreadable)):
        told.print(line)
    for conclusion in work.conclusions():
        told.print(conclusion)
    if output is not None and files.output != STDOUT:
        for line in report.written(output.written):
            told.print(line)
    return 0


def _check(tools: Sequence[Named], files: Files, output_required: bool) -> None:
    if not files.inputs:
        raise ConfigError("name a file to read, or - for standard input")
    if output_required and files.output is None:
        raise ConfigError("--output is required")
    written = _written(files)
    for flag, path in written.items():
        check_output(flag, path)
    for path in files.inputs:
        if path != STDIN and any(path.resolve() == out.resolve() for out in written.values()):
            raise ConfigError(f"{path} is read and cannot be written at the same time")
        if path != STDIN and not path.exists():
            raise BadFile(f"{path}: no such file")
    if len({path.resolve() for path in written.values()}) < len(written):
        raise ConfigError("--output and --keep-dropped must be two files")
    if files.output == STDOUT and any(named.tool.part() for named in tools):
        raise ConfigError("--output - cannot be used: several files are written, named after --output")


def _written(files: Files) -> dict[str, Path]:
    given = {"--output": files.output, "--keep-dropped": files.keep_dropped}
    return {flag: path for flag, path in given.items() if path is not None}


def _size(files: Files) -> int | None:
    """Bytes to read; None where standard input is among them."""
    return None if STDIN in files.inputs else sum(path.stat().st_size for path in files.inputs)


def _processes(files: Files) -> int:
    if files.processes is not None:
        return files.processes
    size = _size(files)
    if size is not None and size < _SMALL:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Sink:
    """Where everything goes that is no output: progress, and what was dropped."""

    def __init__(self, files: Files, stack: ExitStack, console: Console) -> None:
        self.unreadable = 0
        self._files = files
        self._console = console
        self._kept = stack.enter_context(Output(files.keep_dropped)) if files.keep_dropped else None
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        stack.enter_context(self._progress)

    def progress(self) -> Iterator[Sequence[Record]]:
        """The records of all files, with a bar that tells how far it is."""
        bar = self._progress.add_task("", total=_size(self._files))
        before = 0
        for path in self._files.inputs:
            for chunk in chunks(path):
                yield chunk.records
                self._show(bar, path, before + chunk.position)
            before += 0 if path == STDIN else path.stat().st_size

    def _show(self, bar: TaskID, path: Path, position: int) -> None:
        self._progress.update(bar, description=path.name, completed=position)

    def bad(self, bad: BadRecord) -> None:
        if self._files.strict:
            raise BadFile(str(bad))
        self.unreadable += 1
        if self.unreadable <= _TOLD:
            more = "; more are counted, not told" if self.unreadable == _TOLD else ""
            self._console.print(f"{bad}{more}", markup=False)
        self._keep(bad_line(bad) if self._kept else b"")

    def dropped(self, dropped: DroppedItem) -> None:
        self._keep(dropped_line(dropped) if self._kept else b"")

    def _keep(self, line: bytes) -> None:
        if self._kept is not None:
            self._kept.write(Item("", line))
