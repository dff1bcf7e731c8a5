"""What holds for every test: limits on the machine's use, no network, one marker per folder."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

FOLDER = Path(__file__).parent
SUITES = ("unit", "component", "model", "kernels", "vllm", "fastchat", "e2e", "clients", "netns", "deploy", "release")

# Set before torch and transformers are imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A server that goes away is what many tests are about.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in a shell's background job: the programs that tests start and interrupt would ignore Ctrl-C, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A shared machine is slow now and then, which is no finding; the same examples run each time, and a
# failing one is printed as code to paste, so that nothing depends on a database of old runs.
settings.register_profile("default", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile("default")


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What programs keep for their user is not kept in the folder of the user who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without the garbage collector.

    What it finalizes may parse Python text, with a traceback say, while pytest parses a test file; Python before 3.11.8
    then takes the one for the other ("AST constructor recursion depth mismatch", python/cpython#106905). What is made
    in this time is kept anyway, so the collector need not look at it later on either.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the name of its folder, and skip what needs a GPU where there is none.

    Files with slow tests come first: one that is begun last keeps a single core busy while the others wait.
    """
    for item in items:
        suite = item.path.relative_to(FOLDER).parts[0]
        if suite in SUITES:
            item.add_marker(suite)
        if item.get_closest_marker("gpu") and not _cuda():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()
