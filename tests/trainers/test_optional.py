"""`mesh train sft` with packages that it can do without: weights of 4 bits, DeepSpeed, trackers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.timeout(900)  # of importing all of them on a busy machine, and of DeepSpeed's compiler
MODEL = ("--model", "mesh-demo-mini", "--data", "dummy", "--max-samples", "8", "--use-cpu", "--logging-steps", "1")


def train(folder: Path, *words: str, launcher: tuple[str, ...] = (), **environ: str) -> list[float]:
    """Run the command in a process of its own, in a folder of its own; returns the losses of its steps."""
    output, root = folder / "out", Path(__file__).parents[2]
    command = [sys.executable, *launcher, "-m", "training.sft", *MODEL, "--output", str(output), *words]
    known = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(root)}
    done = subprocess.run(
        command, cwd=folder, env=os.environ | known | environ, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads((output / "sft_report.json").read_text())["training"]["losses"].values())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Two steps of a whole model."""
    return train(tmp_path_factory.mktemp("plain"), "--max-steps", "2")


def test_an_adapter_on_four_bits_learns(tmp_path: Path, plain: list[float]) -> None:
    pytest.importorskip("bitsandbytes")
    losses = train(tmp_path, "--qlora", "--lora-r", "16", "--learning-rate", "1e-2", "--max-steps", "25")
    assert losses[0] == pytest.approx(plain[0], rel=0.05)
    assert losses[0] != pytest.approx(plain[0], rel=1e-4)  # of four bits
    assert losses[-1] < 1
    assert (tmp_path / "out/adapter_model.safetensors").exists()


def test_tensorboard_is_told_the_losses(tmp_path: Path, plain: list[float]) -> None:
    reading: Any = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(tmp_path, "--max-steps", "2", "--report-to", "tensorboard", TENSORBOARD_LOGGING_DIR=str(tmp_path / "board"))
    found = reading.EventAccumulator(str(tmp_path / "board"))
    found.Reload()
    assert [event.value for event in found.Scalars("train/loss")] == pytest.approx(plain, rel=1e-3)


def test_mlflow_is_told_the_losses(tmp_path: Path, plain: list[float]) -> None:
    mlflow: Any = pytest.importorskip("mlflow")
    store = f"sqlite:///{tmp_path}/runs.db"
    train(tmp_path, "--max-steps", "2", "--report-to", "mlflow", MLFLOW_TRACKING_URI=store)
    client = mlflow.MlflowClient(store)
    (run,) = client.search_runs(["0"])
    losses = [metric.value for metric in client.get_metric_history(run.info.run_id, "loss")]
    assert losses == pytest.approx(plain, rel=1e-3)


def test_wandb_keeps_a_run_for_later(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    train(tmp_path, "--max-steps", "2", "--report-to", "wandb", WANDB_MODE="offline")
    (record,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"train/loss" in record.read_bytes()


def test_wandb_without_an_account_is_told_before_the_data_is_read(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    with pytest.raises(AssertionError) as caught:
        train(tmp_path, "--max-steps", "2", "--report-to", "wandb", HOME=str(tmp_path), WANDB_API_KEY="")
    assert "mesh train sft: report_to wandb: No API key configured" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_trains_as_one_process_does(tmp_path: Path, plain: list[float], stage: int) -> None:
    """Two processes without GPUs. The first time it compiles its own communication between them, for a minute."""
    pytest.importorskip("deepspeed")
    config = tmp_path / "zero.json"
    auto = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "train_batch_size", "gradient_clipping")
    config.write_text(json.dumps({"zero_optimization": {"stage": stage}, **dict.fromkeys(auto, "auto")}))
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    words = ("--max-steps", "2", "--per-device-train-batch-size", "4", "--deepspeed", str(config))
    assert train(tmp_path, *words, launcher=torchrun) == pytest.approx(plain, rel=1e-3)
    whole: Any = AutoModelForCausalLM
    _, loading = whole.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not loading["missing_keys"]


def test_deepspeed_without_a_launcher_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    config = tmp_path / "zero.json"
    config.write_text('{"zero_optimization": {"stage": 2}}')
    with pytest.raises(AssertionError) as caught:
        train(tmp_path, "--max-steps", "2", "--deepspeed", str(config))
    assert "mesh train sft: --deepspeed needs a launcher" in str(caught.value)
