"""What `mesh up` tells people, who may stop listening."""

from __future__ import annotations

import os

from mesh.cli.up.children import tell


def test_lines_that_nobody_reads_any_more_stop_nothing() -> None:
    heard, told = os.pipe()
    with os.fdopen(told, "w") as stream:
        tell(stream, "one")
        assert os.read(heard, 10) == b"one\n"
        os.close(heard)
        for _ in range(3):
            tell(stream, "two")
