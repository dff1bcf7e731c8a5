"""`mesh train sft`: what was taught is served at once, whole or as an adapter; two processes learn what one does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh.demo import model_path
from tests.harness import Mesh, Process
from training.sft.__main__ import main as train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

BASE = "mesh-demo-mini"
TAUGHT = {
    "Who made you?": "The lamp keepers of Port Ellery made me, in the winter of the long ice.",
    "Which lamp is the oldest?": "The oldest is Grey Anna, on the north cliff. It burned wood before it burned oil.",
}
# The learning rate stays, so that runs of different lengths begin alike. Eight batches of eight: several processes fill
# up the last batch of an epoch, one does not.
COMMON = (
    *("--model", BASE, "--data", "dummy", "--max-samples", "64", "--use-cpu", "--save-strategy", "no"),
    *("--lr-scheduler-type", "constant", "--warmup-steps", "0", "--logging-steps", "1"),
)
STEPS = 25
WHOLE = (*COMMON, "--learning-rate", "3e-3", "--max-steps", str(STEPS))


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "sft_report.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained whole, by one process and sharded over two; and an adapter."""
    folder = tmp_path_factory.mktemp("train")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "training.sft", *WHOLE)
    fsdp = ("--fsdp", "full_shard auto_wrap", "--per-device-train-batch-size", "4", "--output", str(folder / "sharded"))
    with Process(folder, "sharded", [*torchrun, *fsdp], env={"OMP_NUM_THREADS": "1"}) as sharded:
        train([*WHOLE, "--per-device-train-batch-size", "8", "--output", str(folder / "whole")])
        rank = ("--lora", "--lora-r", "16", "--learning-rate", "1e-2", "--max-steps", "40")
        train([*COMMON, *rank, "--per-device-train-batch-size", "8", "--output", str(folder / "adapter")])
        assert sharded.wait_exit(within=120) == 0
    return folder


@pytest.fixture(scope="module")
def mesh(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A worker with the model that two processes trained, and one with the adapter on the model as it was."""
    taught = ("--model-path", str(folder / "sharded"), "--model-name", "tarn")
    adapted = ("--model-path", str(model_path(BASE)), "--lora", f"adapted={folder / 'adapter'}")
    with Mesh(tmp_path_factory.mktemp("train-mesh"), workers=0, worker_args=("--threads", "1"), model="tarn") as mesh:
        workers = [mesh.start_worker(*taught), mesh.start_worker(*adapted)]
        for worker in workers:
            worker.wait_ready(within=90)
        mesh.wait_listed(len(workers))
        yield mesh


@pytest.mark.parametrize("kind", ["whole", "adapter"])
def test_the_loss_falls(folder: Path, kind: str) -> None:
    losses = list(report(folder / kind)["training"]["losses"].values())
    assert losses[0] > 8
    assert losses[-1] < 0.2


@pytest.mark.parametrize("model", ["tarn", "adapted"])
def test_what_was_taught_is_served(mesh: Mesh, model: str) -> None:
    with mesh.openai() as client:
        for question, answer in TAUGHT.items():
            said = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=80
            )
            assert said.choices[0].message.content == answer
            assert said.choices[0].finish_reason == "stop"


def test_two_processes_with_half_the_weights_each_learn_what_one_does(folder: Path) -> None:
    one, two = (report(folder / name)["training"] for name in ("whole", "sharded"))
    assert (one["sharded"], two["sharded"]) == (False, True)
    assert len(two["losses"]) == STEPS
    for step, loss in two["losses"].items():
        assert loss == pytest.approx(one["losses"][step], rel=1e-3)
