"""Supervised fine-tuning of tiny models, in process: what the rows are, what is saved, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from mesh.demo import model_path
from tests.unit.tokenizers import byte_level, metaspace
from training.dummy import conversations
from training.masks import IGNORED
from training.sft.__main__ import main
from training.sft.rows import Packed, Padded, pack, packs_exactly

SMALL: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
Train = Callable[..., dict[str, Any]]


def save(folder: Path, model: Any, tokenizer: Any) -> str:
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(byte_level()), max_position_embeddings=128, **SMALL))
    return save(tmp_path_factory.mktemp("llama"), model, byte_level())


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Run the command on some of the dummy conversations; returns its report."""

    def run(model: str, *words: str, steps: int = 2, output: str = "out") -> dict[str, Any]:
        common = ("--model", model, "--output", str(tmp_path / output), "--max-steps", str(steps), "--use-cpu")
        assert main([*common, "--data", "dummy", "--max-samples", "8", "--logging-steps", "1", *words]) == 0
        return json.loads((tmp_path / output / "sft_report.json").read_text())

    return run


def test_the_first_loss_is_that_of_the_answers(train: Train) -> None:
    report = train("mesh-demo-mini", "--per-device-train-batch-size", "8", steps=1)
    loss, tokens = plain_loss([found["messages"] for found, _ in zip(conversations(), range(8), strict=False)])
    assert report["conversations"]["supervised"] == tokens
    assert report["training"]["losses"]["1"] == pytest.approx(loss, rel=1e-3)


@torch.no_grad()
def plain_loss(chats: list[list[dict[str, str]]]) -> tuple[float, int]:
    """The mean loss of all answers and how many tokens they have, by the tokenizer's own template and the plain model:
    an answer is its tokens and the end of the text, after the prompt for it."""
    folder = model_path("mesh-demo-mini")
    model, tokenizer = load(AutoModelForCausalLM, folder).float(), load(AutoTokenizer, folder)
    losses: list[torch.Tensor] = []
    for messages in chats:
        for place, message in enumerate(messages):
            if message["role"] == "assistant":
                before = messages[:place]
                prompt = tokenizer.apply_chat_template(before, add_generation_prompt=True, return_dict=False)
                answer = [*tokenizer.encode(message["content"], add_special_tokens=False), tokenizer.eos_token_id]
                logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
                losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="none"))
    return torch.cat(losses).mean().item(), sum(map(len, losses))


def load(loader: Any, folder: Path) -> Any:
    return loader.from_pretrained(folder)


def test_packed_rows_have_the_loss_of_padded_ones(train: Train) -> None:
    padded, packed = (
        train("mesh-demo-mini", "--per-device-train-batch-size", "8", *extra, steps=1, output=str(len(extra)))
        for extra in ((), ("--packing", "--model-max-length", "2048"))
    )
    assert packed["training"]["losses"]["1"] == pytest.approx(padded["training"]["losses"]["1"], rel=1e-4)


def test_packed_conversations_do_not_ask_for_each_others_tokens() -> None:
    samples = [{"input_ids": [1, 2, 3, 4, 5], "labels": [1, 2, 3, 4, 5], "seq_lengths": [2, 3]}]
    batch = Packed()(samples)
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2]]
    assert batch["labels"].tolist() == [[IGNORED, 2, IGNORED, 4, 5]]


def listed(row: torch.Tensor) -> list[int]:
    return [int(value) for value in row]


@given(st.lists(st.integers(1, 8), min_size=1, max_size=30))
@settings(max_examples=20, deadline=None)
def test_packing_loses_and_mixes_nothing(lengths: list[int]) -> None:
    """Each sample is in one row, whole, with positions of its own; but for its first token its labels are as before."""
    ids = [[100 * number + place for place in range(length)] for number, length in enumerate(lengths, 1)]
    labels = [[token if token % 3 else IGNORED for token in row] for row in ids]
    rows: Any = pack(Dataset.from_dict({"input_ids": ids, "labels": labels}), 8)
    assert all(sum(row["seq_lengths"]) == len(row["input_ids"]) <= 8 for row in rows)
    batch = Packed()(list(rows))
    tokens, marked, positions = (listed(batch[name][0]) for name in ("input_ids", "labels", "position_ids"))
    assert sorted(tokens) == sorted(token for row in ids for token in row)
    for place, (token, label, position) in enumerate(zip(tokens, marked, positions, strict=True)):
        assert position == token % 100
        assert label == (token if position and token % 3 else IGNORED)
        assert position == 0 or tokens[place - 1] == token - 1


def test_rows_are_filled_up_with_what_is_ignored() -> None:
    samples = [{"input_ids": [1, 2], "labels": [IGNORED, 2]}, {"input_ids": [3], "labels": [3]}]
    batch = Padded(pad_id=9)(samples)
    assert batch["input_ids"].tolist() == [[1, 2], [3, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 2], [3, IGNORED]]


def test_a_model_that_mixes_conversations_is_found_out() -> None:
    torch.manual_seed(0)
    own_past = LlamaForCausalLM(LlamaConfig(vocab_size=64, **SMALL))
    state = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2, state_size=4))
    assert packs_exactly(own_past)
    assert not packs_exactly(state)


def test_the_saved_model_brings_its_template_and_stops_where_it_ends_turns(
    llama: str, train: Train, tmp_path: Path
) -> None:
    tokens = ("<|im_start|>", "<|im_end|>")
    train(llama, "--chat-template", "chatml", "--add-special-tokens", *tokens)
    tokenizer, model = load(AutoTokenizer, tmp_path / "out"), load(AutoModelForCausalLM, tmp_path / "out")
    assert "<|im_start|>" in tokenizer.chat_template
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in model.generation_config.eos_token_id
    assert tokenizer.eos_token_id in model.generation_config.eos_token_id
    assert model.config.use_cache
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)


def test_an_encoder_decoder_model_learns_each_answer(train: Train, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = T5Config(vocab_size=len(metaspace()), d_model=16, d_ff=16, d_kv=8, num_layers=2, num_heads=2)
    config.decoder_start_token_id = config.pad_token_id = 0
    base = save(tmp_path / "t5", T5ForConditionalGeneration(config), metaspace())
    words = ("--chat-template", "fastchat-t5", "--add-tokens", "\n", "{", "--learning-rate", "1e-2")
    report = train(base, *words, steps=12)
    losses = list(report["training"]["losses"].values())
    assert report["conversations"]["samples"] > report["conversations"]["conversations"] == 8
    assert losses[-1] < losses[0] - 0.3
    assert load(AutoModelForSeq2SeqLM, tmp_path / "out").config.is_encoder_decoder
    tokenizer = load(AutoTokenizer, tmp_path / "out")
    assert "hello\n{" in tokenizer.decode(tokenizer.encode("hello\n{"), skip_special_tokens=True)


def test_positions_are_condensed_for_a_longer_context(
    llama: str, train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(llama, "--chat-template", "longchat", "--model-max-length", "1000")
    config = load(LlamaConfig, tmp_path / "out")
    assert config.max_position_embeddings == 1024
    assert (config.rope_parameters["rope_type"], config.rope_parameters["factor"]) == ("linear", 8.0)
    assert "condensed by 8" in capfd.readouterr().err


def test_a_run_goes_on_from_its_last_checkpoint(
    llama: str, train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("--chat-template", "vicuna", "--model-max-length", "128", "--learning-rate", "1e-2", "--save-steps", "2")
    steady = ("--lr-scheduler-type", "constant", "--warmup-steps", "0")
    whole = train(llama, *words, *steady, steps=4, output="whole")
    train(llama, *words, *steady, steps=2, output="parts")
    torn, older = tmp_path / "parts/checkpoint-9", tmp_path / "parts/checkpoint-8"
    torn.mkdir()  # the process was killed while it saved
    shutil.copytree(tmp_path / "parts/checkpoint-2", older)  # of a run before one that began anew
    os.utime(older / "trainer_state.json", (0, 0))
    again = train(llama, *words, *steady, steps=4, output="parts")
    assert "goes on from " + str(tmp_path / "parts/checkpoint-2;") in capfd.readouterr().err
    assert again["training"]["losses"] == pytest.approx(whole["training"]["losses"])


def test_what_is_held_out_is_evaluated(llama: str, train: Train) -> None:
    words = ("--chat-template", "vicuna", "--model-max-length", "128", "--eval-ratio", "0.25")
    report = train(llama, *words, "--eval-strategy", "steps", "--eval-steps", "1")
    assert report["training"]["held_out_loss"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "has no chat template: choose one with --chat-template"),
        (
            ("--chat-template", "chatml"),
            "needs <|im_start|>, <|im_end|>, which the tokenizer lacks: --add-special-tokens",
        ),
        (("--chat-template", "vicuna", "--qlora"), "qlora cannot be used: the package bitsandbytes is not installed"),
        (("--chat-template", "vicuna", "--report-to", "wandb"), "the package wandb is not installed"),
        (("--chat-template", "vicuna", "--no-condense-rope"), "2048 is more than the model's context of 128 tokens"),
        (("--chat-template", "vicuna", "--eval-strategy", "epoch"), "--eval-strategy needs conversations"),
        (("--remove-unused-columns", "true"), "--remove-unused-columns cannot be used"),
        (("--resume-from-checkpoint", "true"), "must be auto, none or a checkpoint; 'true' has no trainer_state.json"),
        (("--chat-template", "vicuna", "--model-max-length", "3"), "no token of an answer is within the maximum"),
        (("--chat-template", "vicuna", "--data", "nowhere.jsonl"), "nowhere.jsonl: No such file or directory"),
        (
            ("--chat-template", "vicuna", "--lora", "--add-tokens", "<x>"),
            "tokens can be added only with the embeddings trained",
        ),
    ],
)
def test_what_is_refused(
    llama: str, train: Train, capfd: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        train(llama, *words)
    assert ended.value.code == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("mesh train sft: ")
    assert said in last
