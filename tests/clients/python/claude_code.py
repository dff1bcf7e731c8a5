"""Claude Code: Anthropic's agent in the terminal, over Anthropic's messages."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any


def claude(folder: Path, text: str, *arguments: str) -> list[dict[str, Any]]:
    """The events of one turn."""
    command = ["claude", "-p", text, "--model", "echo", "--output-format", "stream-json", "--verbose", *arguments]
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_streams(tmp_path: Path) -> None:
    events = claude(tmp_path, "The sea is blue.", "--include-partial-messages")
    pieces = [event for event in events if event["type"] == "stream_event"]
    assert len(pieces) > 10
    assert "The sea is blue." in events[-1]["result"]


def test_calls_tools(tmp_path: Path) -> None:
    path = tmp_path / "sea.txt"
    path.write_text("The sea is green.\n")
    call = {"name": "Read", "arguments": {"file_path": str(path)}}
    events = claude(tmp_path, f"<tool_call>\n{json.dumps(call)}\n</tool_call>")
    assert "The sea is green." in events[-1]["result"]
