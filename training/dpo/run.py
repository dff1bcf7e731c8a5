"""One run of preference training: from settings to a saved model."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

import datasets
from datasets import Dataset
from transformers import PretrainedConfig, PreTrainedModel, set_seed
from trl.trainer.dpo_trainer import DPOTrainer

from training.checkpoints import checkpoint_of
from training.dpo.pairs import Account, Collator, pairs
from training.dpo.settings import DpoSettings
from training.held_out import hold_out
from training.masks import Masker
from training.models import Language, check_packages, load_config, load_language, load_model
from training.settings import BadSettings
from training.weights.folders import make_readable

REPORT: Final = "dpo_report.json"


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to. `losses` are those of its log, by step.

    `held_out`: on the pairs that were held out the loss, the share of which the reward of the chosen answer is the
    higher one (`accuracy`), and by how much on average (`margin`). A reward is beta times how much likelier an answer
    has become.
    """

    steps: int
    seconds: float
    losses: Mapping[int, float]
    held_out: Mapping[str, float] | None


class Trainer(DPOTrainer):
    """TRL's, on pairs that are tokens already: which of these count is what the masks say, turn by turn."""

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        return dataset


def run(settings: DpoSettings) -> Result:
    """Train and save. Raises BadSettings and BadFile."""
    settings.check()
    check_packages(settings, settings)
    checkpoint = checkpoint_of(settings)
    set_seed(settings.seed)
    config = load_config(settings)
    cached: bool | None = getattr(config, "use_cache", None)
    if config.is_encoder_decoder:
        raise BadSettings(f"--model is a {config.model_type}: preferences are for decoder-only models")
    language = load_language(settings, config)
    train, held_out = _data(settings, language)
    trainer = _trainer(settings, config, language, train, held_out)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=checkpoint)
    result = _result(trainer, time.monotonic() - started, evaluate=held_out is not None)
    _forget_reference(trainer)
    if cached is not None:
        cast("Any", trainer.model).config.use_cache = cached  # while it trains, the trainer has it off
    trainer.save_model()
    if trainer.is_world_process_zero():
        _finish(settings, result)
    return result


def _data(settings: DpoSettings, language: Language) -> tuple[Dataset, Dataset | None]:
    """The pairs, made by one process of a node, whose others read them from the disk."""
    folder = Path(settings.output_dir or "") / "encoded"
    with settings.main_process_first(local=settings.save_on_each_node, desc="tokenising"):
        if settings.process_index == 0 or (settings.save_on_each_node and settings.local_process_index == 0):
            _encode(settings, language, folder)
    held_out = folder / "held_out"
    return _stored(folder / "train"), _stored(held_out) if held_out.exists() else None


def _stored(folder: Path) -> Dataset:
    return cast("Any", datasets).load_from_disk(str(folder))


def _encode(settings: DpoSettings, language: Language, folder: Path) -> None:
    datasets.disable_progress_bars()
    shutil.rmtree(folder, ignore_errors=True)
    masker = Masker(language.tokenizer, language.template, settings.model_max_length)
    train, account = _encoded(settings, settings.data_path, masker)
    held_out = None
    if settings.eval_data_path:
        held_out, _ = _encoded(settings, settings.eval_data_path, masker)
    elif settings.eval_ratio:
        train, held_out = hold_out(train, settings.eval_ratio, settings.seed)
    train.save_to_disk(folder / "train")
    if held_out is not None:
        held_out.save_to_disk(folder / "held_out")
    (folder / REPORT).write_text(json.dumps(asdict(account), indent=2) + "\n", encoding="utf-8")


def _encoded(settings: DpoSettings, paths: list[str], masker: Masker) -> tuple[Dataset, Account]:
    account = Account()
    rows = list(pairs([Path(path) for path in paths], masker, account, settings.max_samples))
    sys.stderr.write("\n".join(account.lines()) + "\n")
    if not rows:
        reasons = "; ".join(f"{count} {reason}" for reason, count in account.refused.items())
        raise BadSettings(f"nothing to train on in {', '.join(paths)}: {reasons or 'no preferences'}")
    return Dataset.from_list(rows), account


def _trainer(
    settings: DpoSettings, config: PretrainedConfig, language: Language, train: Dataset, held_out: Dataset | None
) -> Trainer:
    model = load_model(settings, settings, config, language)
    tokenizer: Any = language.tokenizer
    tokenizer.chat_template = language.template
    return Trainer(
        model=model,
        ref_model=_reference(settings, config, language),
        args=settings,
        train_dataset=train,
        eval_dataset=held_out,
        data_collator=Collator(language.pad_id),
        processing_class=tokenizer,
    )


def _reference(settings: DpoSettings, config: PretrainedConfig, language: Language) -> PreTrainedModel | None:
    """The model as it was, against which preferences are measured; an adapter is simply left out for that."""
    if settings.adapts or settings.precompute_ref_log_probs:
        return None
    return load_model(settings, settings, config, language)


def _forget_reference(trainer: Trainer) -> None:
    """The adapter as it was at the beginning, which TRL keeps as a second one, is no part of the result."""
    accelerator: Any = trainer.accelerator
    model = accelerator.unwrap_model(trainer.model)
    if "ref" in getattr(model, "peft_config", {}):
        model.delete_adapter("ref")


def _result(trainer: Trainer, seconds: float, *, evaluate: bool) -> Result:
    losses = {int(entry["step"]): entry["loss"] for entry in trainer.state.log_history if "loss" in entry}
    held_out = None
    if evaluate:
        found = trainer.evaluate()
        names = {"loss": "eval_loss", "accuracy": "eval_rewards/accuracies", "margin": "eval_rewards/margins"}
        held_out = {name: round(found[key], 4) for name, key in names.items()}
    return Result(trainer.state.global_step, round(seconds, 1), losses, held_out)


def _finish(settings: DpoSettings, result: Result) -> None:
    """The report beside the model, the tokens removed, and what to do next."""
    folder = Path(settings.output_dir or "")
    account = json.loads((folder / "encoded" / REPORT).read_text(encoding="utf-8"))
    report = {"base": settings.model_name_or_path, "preferences": account, "training": asdict(result)}
    (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(folder / "encoded")
    make_readable(folder)
    losses = list(result.losses.values())
    course = f", loss {losses[0]:.3f} to {losses[-1]:.3f}" if losses else ""
    print(f"{result.steps} steps in {result.seconds:.0f} s{course}; saved in {folder}")
    if result.held_out is not None:
        print(
            f"on what was held out the chosen answer has the higher reward in {result.held_out['accuracy']:.0%}, "
            f"by {result.held_out['margin']:.3f} on average"
        )
    if settings.adapts:
        print(f"serve it: mesh-worker --model-path {settings.model_name_or_path} --lora NAME={folder}")
    else:
        print(f"serve it: mesh-worker --model-path {folder}")
