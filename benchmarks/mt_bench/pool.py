"""Many jobs at once, within a limit for all and one for each group, with progress on the terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")


async def run(
    jobs: Mapping[str, Sequence[T]],
    work: Callable[[T], Awaitable[bool]],
    *,
    limit: int,
    limit_each: int,
    title: str,
) -> None:
    """Do the jobs of all groups (models or judges), at most `limit` at once and `limit_each` of one group.

    `work` returns whether the job succeeded; failures are counted beside the bar.
    """
    room = asyncio.Semaphore(limit)
    with _progress() as progress:
        bar = progress.add_task(title, total=sum(map(len, jobs.values())), failed="")
        failed = 0

        async def worker(mine: Iterator[T]) -> None:
            nonlocal failed
            for job in mine:
                async with room:
                    succeeded = await work(job)
                failed += not succeeded  # `failed += not await …` would forget what others added meanwhile
                progress.update(bar, advance=1, failed=f"[red]{failed} failed" if failed else "")

        try:
            async with asyncio.TaskGroup() as group:
                for mine in map(iter, jobs.values()):
                    for _ in range(limit_each):
                        group.create_task(worker(mine))
        except ExceptionGroup as found:
            raise found.exceptions[0] from None  # a full disk is told once


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]}"),
        console=Console(stderr=True),
    )
