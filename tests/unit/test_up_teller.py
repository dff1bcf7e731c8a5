"""What `mesh up` tells people, who may stop reading."""

from __future__ import annotations

import os
import re
from contextlib import closing, suppress

from mesh.cli.up.teller import Teller
from tests.harness import wait_until


def test_lines_that_nobody_reads_any_more_stop_nothing() -> None:
    heard, told = os.pipe()
    with os.fdopen(told, "w") as stream, closing(Teller(stream)) as tell:
        tell("one")
        assert os.read(heard, 10) == b"one\n"
        os.close(heard)
        for _ in range(3):
            tell("two")


def test_a_reader_who_stops_holds_up_nobody_and_is_told_what_was_left_out() -> None:
    heard, told = os.pipe()
    os.set_blocking(heard, False)
    read = bytearray()

    def told_again() -> bool:
        tell("again")
        with suppress(BlockingIOError):
            read.extend(os.read(heard, 1 << 16))
        return b"again\n" in read

    with os.fdopen(told, "w") as stream, closing(Teller(stream, most=10)) as tell:
        for number in range(1000):  # a pipe holds 64 KiB
            tell(f"{number:04}" + "." * 1000)
        wait_until(told_again)
    os.close(heard)
    lines = read.decode().splitlines()
    kept = [line[:4] for line in lines if line.endswith("...")]
    assert kept == [f"{number:04}" for number in range(len(kept))]
    left_out = re.fullmatch(r"\((\d+) lines left out: nobody read them\)", lines[len(kept)])
    assert left_out is not None
    assert len(kept) + int(left_out[1]) >= 1000
