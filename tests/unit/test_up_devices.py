"""Where the replicas of a model of mesh.yaml run."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.cli.up import devices
from mesh.cli.up.document import Value, read_document
from mesh.config import ConfigError


def given(tmp_path: Path, text: str) -> Value:
    file = tmp_path / "mesh.yaml"
    file.write_text(f"devices: {text}\n")
    return read_document(file).section()["devices"]


def place(tmp_path: Path, text: str, engine: str = "transformers") -> list[tuple[list[str], dict[str, str]]]:
    value = given(tmp_path, text)
    return devices.place(value, devices.read(value), engine)


@pytest.fixture(autouse=True)
def all_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_each_engine_gets_its_devices_in_its_own_way(tmp_path: Path):
    assert place(tmp_path, "[cpu, 'cuda:1', 'cuda:2,3']") == [
        (["--device=cpu"], {}),
        (["--device=cuda"], {"CUDA_VISIBLE_DEVICES": "1"}),
        (["--device=cuda", "--num-gpus=2"], {"CUDA_VISIBLE_DEVICES": "2,3"}),
    ]
    assert place(tmp_path, "cuda:1", "vllm") == [([], {"CUDA_VISIBLE_DEVICES": "1"})]


def test_devices_are_counted_among_those_that_a_launcher_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-8f")
    assert place(tmp_path, "'cuda:0,1'")[0][1] == {"CUDA_VISIBLE_DEVICES": "4,GPU-8f"}
    with pytest.raises(ConfigError, match="lets this process see 2"):
        place(tmp_path, "cuda:2")


@pytest.mark.parametrize(
    ("text", "engine", "message"),
    [
        ("gpu0", "transformers", "not 'gpu0'"),
        ("[]", "transformers", "names no device"),
        ("'cuda:1,1'", "transformers", "twice"),
        ("'xpu:0,1'", "transformers", "with cuda only"),
        ("cpu", "vllm", "CUDA devices only"),
        ("cpu", "scripted", "no effect with engine scripted"),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_its_line(tmp_path: Path, text: str, engine: str, message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        place(tmp_path, text, engine)
    assert "mesh.yaml:1: devices" in str(caught.value)
