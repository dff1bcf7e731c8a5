"""Codex: OpenAI's agent in the terminal, over responses."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

CONFIG = f"""
model = "echo"
model_provider = "mesh"
check_for_update_on_startup = false
analytics.enabled = false
features.plugins = false

[model_providers.mesh]
name = "mesh"
base_url = "{os.environ["OPENAI_BASE_URL"]}"
wire_api = "responses"
env_key = "OPENAI_API_KEY"
"""


def codex(folder: Path, text: str, *arguments: str) -> list[dict[str, Any]]:
    """The events of one turn."""
    (folder / "config.toml").write_text(CONFIG)
    # What the commands of an agent may do is not what is tested, and not every container can hold them back.
    command = ["codex", "exec", "--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    done = subprocess.run(
        [*command, *arguments, text],
        cwd=folder,
        env={**os.environ, "CODEX_HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def messages(events: list[dict[str, Any]]) -> list[str]:
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    return [item["text"] for item in items if item["type"] == "agent_message"]


def test_streams(tmp_path: Path) -> None:
    assert messages(codex(tmp_path, "The sea is blue.")) == ["The sea is blue."]


def test_calls_tools(tmp_path: Path) -> None:
    (tmp_path / "sea.txt").write_text("The sea is green.\n")
    call = {"name": "exec_command", "arguments": {"cmd": "cat sea.txt"}}
    events = codex(tmp_path, f"<tool_call>\n{json.dumps(call)}\n</tool_call>")
    assert "The sea is green." in messages(events)[-1]


def test_answers_of_a_schema(tmp_path: Path) -> None:
    place = {"city": "Bern", "people": 137_995}
    kinds = {"city": {"type": "string"}, "people": {"type": "integer"}}
    schema = {"type": "object", "properties": kinds, "required": list(kinds), "additionalProperties": False}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    events = codex(tmp_path, json.dumps(place), "--output-schema", "schema.json")
    assert json.loads(messages(events)[-1]) == place
