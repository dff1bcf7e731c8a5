"""Images on their way into a prompt: what becomes of the files, of which Gradio may have one for several visitors."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from webui.pages.composer import delete_upload, read_upload
from webui.records import Refused
from webui.samples import SAMPLES, draw_samples, sample_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "samples"
    made.mkdir()
    draw_samples(made)
    return made


def test_an_upload_goes_with_its_prompt_and_a_sample_stays_for_others(folder: Path, tmp_path: Path) -> None:
    sample = sample_file(SAMPLES[0], folder)
    chosen = Path(shutil.copy(sample, tmp_path))
    delete_upload(str(chosen), folder)
    assert read_upload(str(chosen)) == [sample.read_bytes()]
    chosen.write_bytes(b"an upload of the same name")
    delete_upload(str(chosen), folder)
    assert not chosen.exists()
    assert read_upload(None) == []


def test_an_upload_that_another_visitor_sent_is_asked_for_again(folder: Path, tmp_path: Path) -> None:
    upload = tmp_path / "cat.png"
    upload.write_bytes(b"a cat")
    delete_upload(str(upload), folder)
    with pytest.raises(Refused, match="choose it again"):
        read_upload(str(upload))
