"""What judges said, by the content of the request: the same prompt for the same model is not paid for twice."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.mt_bench.endpoint import Message, Reply
from benchmarks.mt_bench.jsonl import replace


class Cache:
    """A folder of replies, each in a file named by the hash of model, messages and parameters."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, model: str, messages: list[Message], parameters: dict[str, Any]) -> Reply | None:
        """The reply to this request, if there is one; a file that cannot be read counts as none."""
        try:
            return msgspec.json.decode(self._path(model, messages, parameters).read_bytes(), type=Reply)
        except (OSError, msgspec.DecodeError):
            return None

    def put(self, model: str, messages: list[Message], parameters: dict[str, Any], reply: Reply) -> None:
        """Keep a reply."""
        replace(self._path(model, messages, parameters), [msgspec.json.encode(reply)])

    def _path(self, model: str, messages: list[Message], parameters: dict[str, Any]) -> Path:
        request = {"model": model, "messages": messages, "parameters": parameters}
        name = hashlib.sha256(msgspec.json.encode(request, order="sorted")).hexdigest()
        return self._folder / name[:2] / f"{name[2:]}.json"
