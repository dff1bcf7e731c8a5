"""Hundreds of workers and 10,000 registry events a minute: no request fails, and all the news arrives."""

from __future__ import annotations

from benchmarks.load.fleet import run


async def test_no_request_fails_while_hundreds_of_workers_have_news() -> None:
    table = await run(300, 1.0, 10_000)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == ["10 workers", "300 workers", "300 workers, news"]
    assert [row[3] for row in rows] == ["0", "0", "0"]
    assert all(int(row[2]) > 0 for row in rows)
    assert int(rows[2][1]) >= 100
