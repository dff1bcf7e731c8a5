"""`mesh mtbench download`: the official files from a server of ours, and what is said when they are not those."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.mt_bench.jsonl import BadFile
from benchmarks.mt_bench.official import FILES, fetch
from benchmarks.mt_bench.question_set import load

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


class _Quiet(SimpleHTTPRequestHandler):
    seen: list[str]

    def __init__(self, *args: object, seen: list[str], directory: str) -> None:
        self.seen = seen
        super().__init__(*args, directory=directory)  # pyright: ignore[reportArgumentType]

    def log_message(self, format: str, *args: object) -> None:
        self.seen.append(self.path)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """A server's address, the folder that it serves, and the paths that were asked for."""
    folder = tmp_path / "served"
    folder.mkdir()
    seen: list[str] = []
    handler = partial(_Quiet, seen=seen, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", folder, seen
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.skipif(not (DATA / "mt_bench").is_dir(), reason="MT-bench's files are not here")
def test_the_files_come_once_and_are_whole(source: tuple[str, Path, list[str]], tmp_path: Path) -> None:
    url, served, seen = source
    for name in FILES:
        path = DATA / name if (DATA / name).exists() else DATA / "mt_bench" / name
        (served / name).parent.mkdir(parents=True, exist_ok=True)
        (served / name).write_bytes(path.read_bytes())
    target = tmp_path / "data"
    assert [str(path.relative_to(target)) for path in fetch(url, target)] == [*FILES]
    assert len(seen) == 5
    assert len(load("mt_bench", target).questions) == 80
    assert load("vicuna_bench", target).prompts[0].name == "pair-v2"  # of the file one level up
    (target / "mt_bench" / "question.jsonl").write_text("broken")
    assert len([*fetch(url, target)]) == 5
    assert seen[5:] == ["/mt_bench/question.jsonl"]  # what is whole is not fetched again


def test_another_file_is_refused(source: tuple[str, Path, list[str]], tmp_path: Path) -> None:
    url, served, _ = source
    (served / "mt_bench").mkdir()
    (served / "mt_bench" / "question.jsonl").write_text('{"question_id": 81}\n')
    with pytest.raises(BadFile, match=r"/mt_bench/question\.jsonl: is not the official file: its SHA-256 is "):
        list(fetch(url, tmp_path / "data"))
    assert not (tmp_path / "data" / "mt_bench" / "question.jsonl").exists()


def test_a_server_that_has_none_is_named(source: tuple[str, Path, list[str]], tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"/mt_bench/question\.jsonl: .*404"):
        list(fetch(source[0], tmp_path / "data"))
