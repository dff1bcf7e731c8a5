"""Runs the vLLM engine as tests/model/driver.py runs the default one."""

from __future__ import annotations

from typing import Any

from mesh.engine.base import Step
from mesh.engine.sourced.engine import SourcedEngine
from mesh.engine.transformers.loading.options import LoadOptions
from mesh.engine.vllm.options import VllmOptions
from mesh.engine.vllm.source import VllmSource
from tests.model.driver import Answer, Driver


class VllmDriver(Driver):
    """An engine for the duration of `async with`."""

    def __init__(self, path: str, **arguments: Any) -> None:
        given = {"enforce_eager": True, **arguments}
        self.source = VllmSource(VllmOptions(LoadOptions(path, dtype="float32"), max_rows=8, arguments=given))
        self.engine = SourcedEngine(self.source, max_rows=8)
        self.answers: dict[int, Answer] = {}
        self.steps: list[Step] = []
