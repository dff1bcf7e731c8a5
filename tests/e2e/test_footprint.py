"""What a gateway costs that has nothing to do."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.e2e.rawhttp import get
from tests.harness import Gateway

LIMIT_MB = 100


async def test_a_gateway_is_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    with Gateway(tmp_path, "gateway") as gateway:
        gateway.wait_ready()
        seconds = time.monotonic() - began
        assert (await get(gateway.url, "/healthz")).status == 200
        megabytes = psutil.Process(gateway.pid).memory_info().rss / 2**20
    # The time is a figure for people: on a busy machine it says more about the machine.
    with capsys.disabled():
        sys.stdout.write(f" [gateway: ready in {seconds:.2f} s, {megabytes:.0f} MB] ")
    assert megabytes < LIMIT_MB
