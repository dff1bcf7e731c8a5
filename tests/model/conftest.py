"""Tiny models, saved once per run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from transformers import PreTrainedModel

from tests.model import tiny

Saved = tuple[str, PreTrainedModel]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Saved]:
    """Path and model of an architecture."""
    known: dict[str, Saved] = {}

    def get(name: str) -> Saved:
        if name not in known:
            known[name] = tiny.save(tmp_path_factory.mktemp(name), name)
        return known[name]

    return get


@pytest.fixture(scope="session")
def llama(saved: Callable[[str], Saved]) -> Saved:
    """A Llama."""
    return saved("Llama")
