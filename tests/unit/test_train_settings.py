"""Settings of the training commands: flags by their usual names, recipes, the environment, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, cast

import pytest

from mesh.config import ConfigError
from training.demo.config import DemoConfig
from training.dpo.options import DpoOptions
from training.dpo.settings import DpoSettings
from training.parsing import RECIPES, parse_settings
from training.settings import listed
from training.sft.options import SftOptions
from training.sft.settings import SftSettings

# The command by which FastChat's README has Vicuna trained, less torchrun.
VICUNA = """--model_name_or_path meta-llama/Llama-2-7b-hf --data_path data/dummy_conversation.json --bf16 True
--output_dir output_vicuna --num_train_epochs 3 --per_device_train_batch_size 2 --per_device_eval_batch_size 2
--gradient_accumulation_steps 16 --evaluation_strategy no --save_strategy steps --save_steps 1200 --save_total_limit 10
--learning_rate 2e-5 --weight_decay 0. --warmup_ratio 0.03 --lr_scheduler_type cosine --logging_steps 1
--model_max_length 2048 --gradient_checkpointing True --lazy_preprocess True""".split()
NEEDED = ("--model", "m", "--data", "d.jsonl", "--output", "o", "--use-cpu")


def parsed(*words: str, **environ: str) -> SftSettings:
    return parse_settings(SftSettings, [*NEEDED, *words], prog="mesh train sft", environ=environ)


def refused(capsys: pytest.CaptureFixture[str], *words: str, **environ: str) -> str:
    with pytest.raises(SystemExit) as ended:
        parsed(*words, **environ)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_command_of_vicuna(capsys: pytest.CaptureFixture[str]) -> None:
    fsdp = ("--fsdp", "full_shard auto_wrap", "--fsdp_transformer_layer_cls_to_wrap", "LlamaDecoderLayer")
    settings = parse_settings(SftSettings, [*VICUNA, *fsdp, "--use_cpu"], prog="mesh train sft", environ={})
    assert settings.model_name_or_path == "meta-llama/Llama-2-7b-hf"
    assert settings.data_path == ["data/dummy_conversation.json"]
    assert settings.output_dir == "output_vicuna"
    assert (settings.num_train_epochs, settings.per_device_train_batch_size) == (3, 2)
    assert (settings.gradient_accumulation_steps, settings.learning_rate, settings.warmup_steps) == (16, 2e-5, 0.03)
    assert (settings.save_steps, settings.save_total_limit, settings.logging_steps) == (1200, 10, 1)
    assert settings.bf16
    assert isinstance(settings.fsdp_config, dict)
    assert settings.fsdp_config["activation_checkpointing"] is True
    assert settings.fsdp_config["transformer_layer_cls_to_wrap"] == ["LlamaDecoderLayer"]
    assert settings.fsdp_config["reshard_after_forward"] is True
    assert capsys.readouterr().err.startswith("--lazy_preprocess changes nothing: ")


def test_the_flags_of_its_lora_command() -> None:
    settings = parsed("--q_lora", "--lora_r", "4", "--lora_target_modules", "q_proj", "v_proj", "--flash_attn", "False")
    assert settings.qlora
    assert settings.adapts
    assert settings.lora_r == 4
    assert settings.lora_target_modules == ["q_proj", "v_proj"]
    assert settings.attn_implementation == "sdpa"


def test_a_flag_wins_over_the_environment_over_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("learning_rate: 2e-5\nseed: 3\nlora: true\nmax_steps: 7\nlora_target_modules: [a, b]\n")
    settings = parsed("--recipe", str(recipe), "--seed=5", MESH_TRAIN_SEED="4", MESH_TRAIN_MAX_STEPS="8")
    assert (settings.seed, settings.max_steps, settings.learning_rate) == (5, 8, 2e-5)
    assert settings.lora
    assert settings.lora_target_modules == ["a", "b"]
    assert not parsed("--recipe", str(recipe), "--no-lora").lora


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_settings(recipe: Path) -> None:
    kind = DpoSettings if recipe.stem.endswith("-dpo") else SftSettings
    parse_settings(kind, ["--recipe", recipe.stem, "--no-bf16", "--no-tf32"], prog="mesh train", environ={})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--lerning-rate", "1"), "unknown setting 'lerning_rate'; did you mean learning_rate?"),
        (("--learning-rate", "fast"), "invalid float value: 'fast'"),
        (("--cache_dir", "x"), "--cache_dir cannot be used: set HF_HUB_CACHE"),
        (("--preprocessed_path", "x"), "--preprocessed_path cannot be used: "),
        (("--recipe", "vicuna-70"), "--recipe is neither a file nor one of "),
        (("--fsdp", "whole"), "fsdp must be of full_shard, shard_grad_op, offload, auto_wrap, true, not 'whole'"),
        (("--fsdp_transformer_layer_cls_to_wrap", "Layer"), "needs fsdp"),
        (("--flash_attn", "maybe"), "--flash_attn must be true or false, not 'maybe'"),
    ],
)
def test_what_is_refused(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str) -> None:
    line = refused(capsys, *words)
    assert line.startswith("mesh train sft: ")
    assert said in line


def test_a_mistyped_variable_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    said = "unknown environment variable MESH_TRAIN_SED; did you mean seed?"
    assert refused(capsys, MESH_TRAIN_SED="1") == f"mesh train sft: {said}"


def test_all_settings_are_shown_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed("--help-all")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "--lora-r" in shown
    assert "--adam-beta1" in shown


@pytest.mark.parametrize(("options", "settings"), [(SftOptions, SftSettings), (DpoOptions, DpoSettings)])
def test_help_tells_what_the_trainers_do(options: type[Any], settings: type[Any]) -> None:
    """Also of those settings that it knows only from hearsay."""
    ours, theirs = {each.field: each for each in listed(options)}, {field.name: field for field in fields(settings)}
    assert len(ours) > 40
    assert ours.keys() <= theirs.keys()
    for name, each in ours.items():
        default = theirs[name].default
        if default is MISSING:
            default = " ".join(cast("Any", theirs[name]).default_factory())
        assert each.default == (None if default == "" else default), name


def test_help_is_told_without_what_trains() -> None:
    """It would take seconds, and completion asks for it."""
    code = "import sys; from training.__main__ import main; main(sys.argv[1:]); print('transformers' in sys.modules)"
    for words, shown in ((("sft", "--help"), "--lora-r"), (("dpo", "--help"), "--beta")):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)
        assert shown in done.stdout
        assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"eval_only": True, "eval": False}, "--eval-only and --no-eval exclude each other"),
        ({"eval_only": True, "steps": 5}, "--steps has no effect with --eval-only"),
        ({"eval_only": True, "seed": 2}, "--seed has no effect with --eval-only"),
        ({"eval": False, "questions": 3}, "--questions has no effect with --no-eval"),
    ],
)
def test_the_demonstration_model_ignores_no_setting(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DemoConfig(**given)


def test_settings_of_the_demonstration_model_that_go_together() -> None:
    DemoConfig(eval_only=True, questions=3, jobs=1, threads=2)
    DemoConfig(eval=False, steps=5)
