"""One vLLM engine for all tests of this folder: it takes half a minute to start."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from importlib.util import find_spec
from pathlib import Path

import pytest
import pytest_asyncio
from transformers import PreTrainedModel

from tests.model import tiny
from tests.vllm.driver import VllmDriver

# Elsewhere than in its own environment there is nothing to test.
collect_ignore_glob = [] if find_spec("vllm") else ["test_*.py"]
# Read by vLLM when it starts: GiB of KV cache on a CPU, and no word home.
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
# The heads that vLLM's attention for CPUs takes have at least 32 dimensions.
SIZES = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, PreTrainedModel]:
    """Path and model of a tiny Llama."""
    folder: Path = tmp_path_factory.mktemp("llama")
    return tiny.save(folder, "Llama", **SIZES)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vllm(saved: tuple[str, PreTrainedModel]) -> AsyncGenerator[VllmDriver]:
    """A started engine."""
    async with VllmDriver(saved[0]) as driver:
        yield driver
