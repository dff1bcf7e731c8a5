"""Flags of the remote engine: where the key comes from, and that it goes nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mesh.config import ConfigError
from mesh.worker.config import WorkerConfig

URL = "http://127.0.0.1:1/v1"


def config(**fields: Any) -> WorkerConfig:
    given: dict[str, Any] = {"engine": "remote", "remote_model": "m", **fields}
    return WorkerConfig(**given)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(name, f"key-of-{name.partition('_')[0].lower()}")
    monkeypatch.setenv("OTHER_KEY", " other \n")


def test_a_providers_own_variable_is_for_the_providers_own_address() -> None:
    assert config().api_key() == "key-of-openai"
    assert config(provider="anthropic").api_key() == "key-of-anthropic"
    assert config(provider="google").api_key() == "key-of-gemini"
    assert config(base_url=URL).api_key() is None


def test_a_key_by_variable_or_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from-file\n")
    assert config(base_url=URL, api_key_env="OTHER_KEY").api_key() == "other"
    assert config(base_url=URL, api_key_file=file).api_key() == "from-file"


def test_without_a_key_the_sentence_names_the_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match="set OPENAI_API_KEY, or give --api-key-file or --api-key-env"):
        config().api_key()


@pytest.mark.parametrize("content", ["", "two keys", "schlüssel", "a\nb", "a\x00b"])
def test_what_cannot_stand_in_a_header_is_no_key_and_is_not_shown(content: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        config(api_key_file=file).api_key()
    assert not content or content not in str(caught.value)


def test_an_unreadable_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: FileNotFoundError"):
        config(api_key_file=tmp_path / "none").api_key()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"remote_model": None}, "--remote-model is required"),
        ({"base_url": "host:8000"}, "--base-url must begin with"),
        ({"api_key_env": "A", "api_key_file": Path("b")}, "exclude each other"),
        ({"provider": "google", "server_option": ("top_k",)}, "--server-option has no effect with --provider google"),
        ({"model_name": ("a", "b")}, "--model-name can be given once with --engine remote"),
        ({"device": "cuda"}, "--device has no effect with --engine remote"),
        ({"engine": "scripted", "provider": "google", "remote_model": None}, "--provider has no effect"),
    ],
)
def test_settings_that_exclude_each_other(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(**fields)
