"""MT-bench's and vicuna-bench's official files, fetched from FastChat's repository and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx

from benchmarks.mt_bench.jsonl import BadFile, replace

# SHA-256 of the files as they have been since 2023; the project ships none of them.
FILES: Final = {
    "mt_bench/question.jsonl": "119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7",
    "mt_bench/reference_answer/gpt-4.jsonl": "f957a5bc977badb66885ec970e6cd08527845780313f0995764260e5777b9b3f",
    "vicuna_bench/question.jsonl": "c248c5c98ba45bb0c2aadae2f270e643bd32679c6c306a3b2a503ac4254cdaa5",
    "vicuna_bench/reference_answer/gpt-4.jsonl": "f7542dc25a5a869b32197486f5699a14eb5682ab3c7264518402399ec09ab470",
    "judge_prompts.jsonl": "fd283293406d024f44c174b094ef48031d0687a4682fd3a56b29b138f80281b6",
}
_LIMIT: Final = 30.0


def fetch(source: str, folder: Path) -> Iterator[Path]:
    """Fetch what is not there yet. Raises BadFile for what does not come, or is not what it should be."""
    with httpx.Client(timeout=_LIMIT, follow_redirects=True) as client:
        for name, digest in FILES.items():
            path = folder / name
            if not path.exists() or _digest(path.read_bytes()) != digest:
                replace(path, [_get(client, f"{source.rstrip('/')}/{name}", digest)])
            yield path


def _get(client: httpx.Client, url: str, digest: str) -> bytes:
    try:
        response = client.get(url)
        response.raise_for_status()
    except httpx.HTTPError as error:
        raise BadFile(f"{url}: {error}") from error
    if _digest(response.content) != digest:
        raise BadFile(f"{url}: is not the official file: its SHA-256 is {_digest(response.content)}, not {digest}")
    return response.content


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
