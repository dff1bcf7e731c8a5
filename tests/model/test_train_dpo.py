"""Preference training in process: the figures of the report are those of the saved model, computed a second way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mesh.demo import model_path
from training.dpo.__main__ import main

# Between TRL, PEFT and transformers, and of torch's loader on machines without a GPU.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:'pin_memory':UserWarning")

BETA = 0.3
SUMS = [(a, b) for a in (2, 3, 4) for b in (5, 6, 7, 8)]
PAIRS = [(f"What is {a} times {b}?", f"It is {a * b}!", f"{a} * {b} = {a * b}.") for a, b in SUMS]
HELD_OUT = [(f"What is {a} times 9?", f"It is {a * 9}!", f"{a} * 9 = {a * 9}.") for a in (2, 3, 4)]
MODEL = model_path("mesh-demo-mini")


def write(file: Path, pairs: list[tuple[str, str, str]]) -> str:
    rows = [dict(zip(("prompt", "chosen", "rejected"), pair, strict=True)) for pair in pairs]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def train(folder: Path, *words: str) -> dict[str, Any]:
    """Run the command; returns its report."""
    data = ("--data", write(folder / "a.jsonl", PAIRS), "--eval-data", write(folder / "b.jsonl", HELD_OUT))
    common = ("--model", "mesh-demo-mini", "--output", str(folder / "out"), "--use-cpu", "--beta", str(BETA))
    steps = (
        "--max-steps",
        "4",
        "--per-device-train-batch-size",
        "6",
        "--learning-rate",
        "1e-4",
        "--logging-steps",
        "1",
    )
    quiet = ("--report-to", "none", "--save-strategy", "no", "--disable-tqdm", "true")
    assert main([*common, *data, *steps, *quiet, *words]) == 0
    return json.loads((folder / "out/dpo_report.json").read_text())["training"]


@torch.no_grad()
def log_likelihoods(folder: Path) -> torch.Tensor:
    """Of the held-out answers, `[pairs, 2]`: their tokens and the end of the turn, after the prompt for them."""
    loaders: Any = (AutoModelForCausalLM, AutoTokenizer)
    model, tokenizer = (loader.from_pretrained(path) for loader, path in zip(loaders, (folder, MODEL), strict=True))
    model = model.float().eval()
    found: list[float] = []
    for prompt, *answers in HELD_OUT:
        messages = [{"role": "user", "content": prompt}]
        before = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        for text in answers:
            answer = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
            logits = model(torch.tensor([before + answer])).logits[0, len(before) - 1 : -1]
            found.append(-torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum").item())
    return torch.tensor(found).view(-1, 2)


@pytest.mark.parametrize("words", [(), ("--precompute-ref-log-probs", "true")], ids=["beside", "before"])
def test_the_figures_are_those_of_the_saved_model(tmp_path: Path, words: tuple[str, ...]) -> None:
    report = train(tmp_path, *words)
    # Before the first step the model is its own reference: no preference, the logarithm of two.
    assert report["losses"]["1"] == pytest.approx(0.6931, abs=1e-3)
    assert json.loads((tmp_path / "out/config.json").read_text())["use_cache"] is True
    rewards = BETA * (log_likelihoods(tmp_path / "out") - log_likelihoods(MODEL))
    margins = rewards[:, 0] - rewards[:, 1]
    assert margins.abs().max() > 0.05
    assert report["held_out"]["margin"] == pytest.approx(margins.mean().item(), abs=2e-3)
    assert report["held_out"]["accuracy"] == pytest.approx((margins > 0).float().mean().item(), abs=1e-3)
    assert report["held_out"]["loss"] == pytest.approx(-torch.nn.functional.logsigmoid(margins).mean().item(), abs=2e-3)


def test_an_adapter_is_saved_without_its_reference(tmp_path: Path) -> None:
    report = train(tmp_path, "--lora", "--lora-r", "4")
    assert report["losses"]["1"] == pytest.approx(0.6931, abs=1e-3)
    folders = [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()]
    assert folders == []
    # For workers, which are other users.
    assert (tmp_path / "out/adapter_model.safetensors").stat().st_mode & 0o777 == 0o644


def test_an_adapter_goes_on_against_the_model_as_it_was_at_the_beginning(tmp_path: Path) -> None:
    steady = (
        "--lora",
        "--lora-r",
        "4",
        "--save-strategy",
        "steps",
        "--save-steps",
        "2",
        "--lr-scheduler-type",
        "constant",
    )
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = train(tmp_path / "whole", *steady)
    train(tmp_path / "parts", *steady, "--max-steps", "2")
    assert train(tmp_path / "parts", *steady)["losses"] == pytest.approx(whole["losses"], rel=1e-3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--truncation-mode", "keep_end"), "truncation_mode cannot be used: of pairs that are too long the beginning"),
        (("--padding-free", "true"), "padding_free cannot be used"),
        (("--eval-ratio", "0.5"), "--eval-ratio and --eval-data exclude each other"),
        (("--fsdp", "full_shard"), "--fsdp cannot be used on CPUs with preferences"),
        (("--lora", "--lora-dropout", "0.1"), "--lora-dropout has no effect but with --disable-dropout false"),
        (("--lora", "--lora-bias", "all"), "--lora-bias cannot be used with preferences"),
        (("--bta", "1"), "unknown setting 'bta'; did you mean beta?"),
    ],
)
def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        train(tmp_path, *words)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("mesh train dpo: ")
    assert said in line
