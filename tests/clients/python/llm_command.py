"""llm: the command for models in the terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llm")
    lines = ["- model_id: mesh", "model_name: echo", f"api_base: {os.environ['OPENAI_BASE_URL']}"]
    (folder / "extra-openai-models.yaml").write_text(
        "\n  ".join([*lines, "supports_tools: true", "supports_schema: true"])
    )
    return folder


def llm(home: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "llm", "-m", "mesh", "--key", "none", *arguments]
    done = subprocess.run(
        command, env={**os.environ, "LLM_USER_PATH": str(home)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_streams(home: Path) -> None:
    assert llm(home, "The sea is déjà vu.") == llm(home, "--no-stream", "The sea is déjà vu.") == "The sea is déjà vu."


def test_goes_on_with_a_conversation(home: Path) -> None:
    assert llm(home, "one") == "one"
    assert llm(home, "--continue", "two") == "two"


def test_calls_tools(home: Path) -> None:
    look = 'def look(city: str) -> str:\n    "The weather somewhere."\n    return f"18 degrees in {city}"\n'
    call = '<tool_call>\n{"name": "look", "arguments": {"city": "Bern"}}\n</tool_call>'
    assert llm(home, "--functions", look, call).endswith("18 degrees in Bern")


def test_answers_of_a_schema(home: Path) -> None:
    place = {"city": "Bern", "people": 137_995}
    assert json.loads(llm(home, "--schema", "city, people int", json.dumps(place))) == place
