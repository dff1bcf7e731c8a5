"""The benchmarks run, and what they print is what they measured; nothing is said here about speed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.load.generator import Generator
from benchmarks.load.sse import Connection, Failed, Totals, chat_request, connect

ROOT = Path(__file__).resolve().parent.parent.parent


def run(module: str, *arguments: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """Run a benchmark; its table and its JSON."""
    data = folder / "run.json"
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments, "--json", str(data)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout, json.loads(data.read_text())


@pytest.mark.timeout(120)
def test_load_counts_one_session_message_per_step(tmp_path: Path) -> None:
    arguments = (
        "--streams",
        "16",  # with fewer a second costs less than the clock of CPU time tells apart
        "--step-ms",
        "10",
        "--window",
        "3",  # what lies between worker and client when the two are counted is a small part of it
        "--settle",
        "0.3",
        "--asks",
        "3",
        "--repeat",
        "1",
    )
    table, data = run("benchmarks.load", *arguments, "--no-pin", folder=tmp_path)
    session, per_request = data["runs"]
    assert session["mode"]["name"] in table
    assert per_request["mode"]["name"] in table
    # A step may fall on the border of the window, and two may share a message on a busy machine; never two for one.
    assert 0.8 <= session["messages_per_step"] <= 1.02
    assert per_request["messages_per_step"] == 0
    for cost in data["runs"]:
        assert cost["gateway_cpu"] > 0
        assert cost["worker_cpu"] > 0
        # Every token became a frame of one of the streams.
        assert cost["frames_per_second"] == pytest.approx(cost["tokens_per_second"], rel=0.15)
        assert len(cost["first_token"]) == len(cost["first_token_direct"]) == 3


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_engines_agree_on_the_greedy_answers(tmp_path: Path) -> None:
    arguments = ("--model", "tiny", "--streams", "1", "4", "--new-tokens", "8", "--repeat", "2", "--threads", "1")
    table, data = run("benchmarks.engine", *arguments, folder=tmp_path)
    assert [(result["engine"], result["streams"]) for result in data["results"]] == [
        (name, streams)
        for streams in (1, 4)
        for name in ("transformers generate, static batch", "transformers continuous batching", "mesh")
    ]
    for result in data["results"]:
        assert result["engine"] in table
        assert len(result["tokens_per_second"]) == 2
        assert result["equal_rows"] == result["rows"] == 2 * result["streams"]


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_the_time_between_tokens_while_a_long_prompt_enters(tmp_path: Path) -> None:
    arguments = ("--model", "tiny", "--streams", "2", "--new-tokens", "60", "--repeat", "1", "--threads", "1")
    table, data = run("benchmarks.engine", *arguments, "--long-prompt", "1500", folder=tmp_path)
    assert [(gaps["engine"], gaps["streams"]) for gaps in data["gaps"]] == [("mesh", 2), ("mesh --step-seconds 0", 2)]
    for gaps in data["gaps"]:
        assert len(gaps["without"]) >= 2 * 31 - 4  # two streams have 32 tokens before, give or take a step
        assert gaps["during"]
        assert sum(gaps["during"]) / 2 >= gaps["prefill_seconds"][0] * 0.5
    assert "enters" in table


async def serve(pieces: list[bytes]) -> tuple[asyncio.Server, int]:
    """A server that answers anything with these bytes, one write each."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def ask(pieces: list[bytes], totals: Totals) -> tuple[int, float]:
    """Frames and time to first token of one answer."""
    server, port = await serve(pieces)
    async with server:
        connection: Connection = await connect("127.0.0.1", port, totals)
        try:
            answer = await connection.ask(chat_request("x", "m", "p", 1))
        finally:
            connection.close()
    return answer.frames, answer.first_token


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FRAMES = (b'data: {"content":""}\n\n', b'data: {"content":"a"}\n\n', b"data: [DONE]\n\n")
BODY = HEAD + b"".join(b"%x\r\n%b\r\n" % (len(frame), frame) for frame in FRAMES) + b"0\r\n\r\n"


def test_the_load_generator_counts_each_frame_once_however_the_bytes_are_cut() -> None:
    for cut in range(1, len(BODY)):
        totals = Totals()
        connection = Connection(totals)
        connection.data_received(BODY[:cut])
        connection.data_received(BODY[cut:])
        assert (totals.frames, totals.finished, totals.failed) == (3, 1, 0), f"cut at {cut}"


async def test_the_load_generator_reads_an_answer() -> None:
    totals = Totals()
    frames, first_token = await ask([BODY], totals)
    assert (frames, totals.frames, totals.finished, totals.failed) == (3, 3, 1, 0)
    assert first_token > 0


async def test_the_load_generator_does_not_count_an_error_as_an_answer() -> None:
    totals = Totals()
    with pytest.raises(Failed, match="429"):
        await ask([b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"], totals)
    assert (totals.frames, totals.finished, totals.failed) == (0, 0, 1)


async def test_the_load_generator_reports_an_answer_that_breaks_off() -> None:
    with pytest.raises(Failed, match="after 1 frames"):
        await ask([HEAD + FRAMES[1]], Totals())
    error = b'data: {"error": "slow"}\n\n'
    with pytest.raises(Failed, match=r"an end without .*slow"):
        await ask([HEAD + b"%x\r\n%b\r\n0\r\n\r\n" % (len(error), error)], Totals())


async def test_the_load_generator_tells_streams_that_ended_before_they_were_live() -> None:
    pieces = [HEAD + b"%x\r\n%b\r\n0\r\n\r\n" % (len(FRAMES[2]), FRAMES[2])]
    server, port = await serve(pieces)
    async with server:
        held = await Generator("127.0.0.1", port, "m", "p").obey({"do": "hold", "streams": 2, "max_tokens": 9})
    assert (held["live"], held["finished"]) == (0, 2)
