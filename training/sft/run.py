"""One run of supervised fine-tuning: from settings to a saved model."""

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
import transformers
from datasets import Dataset, disable_caching, disable_progress_bars
from torch.distributed.tensor import DTensor
from transformers import PretrainedConfig, Trainer, set_seed

from mesh.counted import counted
from training import dummy
from training.checkpoints import checkpoint_of
from training.held_out import hold_out
from training.masks import Masker
from training.models import Language, check_packages, load_config, load_language, load_model
from training.settings import BadSettings
from training.sft.data import Account, Encoder, encode
from training.sft.rows import Packed, Padded, pack, packs_exactly
from training.sft.settings import SftSettings
from training.sharding import shard
from training.weights.folders import make_readable

REPORT: Final = "sft_report.json"


@dataclass(frozen=True, slots=True)
class Samples:
    """What is trained on and what is evaluated on."""

    train: Dataset
    held_out: Dataset | None


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to; `losses` are those of its log, by step."""

    steps: int
    seconds: float
    losses: Mapping[int, float]
    held_out_loss: float | None
    sharded: bool
    """Whether each process held a part of the weights (FSDP)."""


def run(settings: SftSettings) -> Result:
    """Train and save. Raises BadSettings and BadFile."""
    _check(settings)
    checkpoint = checkpoint_of(settings)
    if not sys.stderr.isatty():
        settings.disable_tqdm = True
        transformers.utils.logging.disable_progress_bar()
    set_seed(settings.seed)
    config = load_config(settings)
    cached: bool | None = getattr(config, "use_cache", None)
    language = load_language(settings, config)
    folder = Path(settings.output_dir or "")
    samples = _samples(settings, language, config, folder)
    trainer = _trainer(settings, language, config, samples)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=checkpoint)
    result = _result(trainer, time.monotonic() - started, samples)
    if cached is not None:
        cast("Any", trainer.model).config.use_cache = cached  # while it trains, the trainer has it off
    trainer.save_model()
    if trainer.is_world_process_zero():
        _finish(settings, result, folder)
    return result


def _check(settings: SftSettings) -> None:
    check_packages(settings, settings)
    if settings.remove_unused_columns:
        raise BadSettings("--remove-unused-columns cannot be used: batches are made of columns of their own")
    if not settings.data_path:
        raise BadSettings("--data is required")
    if settings.eval_data_path and settings.eval_ratio:
        raise BadSettings("--eval-ratio and --eval-data exclude each other")
    if not 0 <= settings.eval_ratio < 1:
        raise BadSettings(f"--eval-ratio must be at least 0 and below 1, not {settings.eval_ratio}")
    if settings.eval_strategy != "no" and not (settings.eval_data_path or settings.eval_ratio):
        raise BadSettings("--eval-strategy needs conversations to evaluate on: --eval-data or --eval-ratio")


def _samples(settings: SftSettings, language: Language, config: PretrainedConfig, folder: Path) -> Samples:
    """The data, tokenised once: by one process of a node, whose others then read it from the disk."""
    if config.is_encoder_decoder and settings.packing:
        raise BadSettings("--packing is for decoder-only models")
    encoded = folder / "encoded"
    with settings.main_process_first(local=settings.save_on_each_node, desc="tokenising"):
        if settings.process_index == 0 or (settings.save_on_each_node and settings.local_process_index == 0):
            _encode(settings, language, config, encoded)
    if not (encoded / REPORT).exists():
        raise BadSettings("the process that reads the data has failed")
    held_out = encoded / "held_out"
    return Samples(_stored(encoded / "train"), _stored(held_out) if held_out.exists() else None)


def _stored(folder: Path) -> Dataset:
    return cast("Any", datasets).load_from_disk(str(folder))


def _encode(settings: SftSettings, language: Language, config: PretrainedConfig, folder: Path) -> None:
    disable_caching()  # what is cached by name and code of a function may be of another file or of older code
    disable_progress_bars()
    shutil.rmtree(folder, ignore_errors=True)
    masker = Masker(
        language.tokenizer, language.template, settings.model_max_length, last_only=settings.answers == "last"
    )
    encoder = Encoder(masker, pairs=bool(config.is_encoder_decoder))
    raw = folder / "raw"
    train, account = _encoded(settings, settings.data_path, encoder, raw / "train", settings.max_samples)
    held_out = None
    if settings.eval_data_path:
        held_out, _ = _encoded(settings, settings.eval_data_path, encoder, raw / "held_out")
    elif settings.eval_ratio:
        train, held_out = hold_out(train, settings.eval_ratio, settings.seed)
    if settings.packing:
        train = pack(train, settings.model_max_length)
        sys.stderr.write(f"  packed into {counted(len(train), 'row')} of up to {settings.model_max_length} tokens\n")
    train.save_to_disk(folder / "train")
    if held_out is not None:
        held_out.save_to_disk(folder / "held_out")
    shutil.rmtree(raw)
    (folder / REPORT).write_text(json.dumps(asdict(account), indent=2) + "\n", encoding="utf-8")


def _encoded(
    settings: SftSettings, paths: list[str], encoder: Encoder, folder: Path, limit: int | None = None
) -> tuple[Dataset, Account]:
    samples, account = encode(
        [dummy.FILE if path == "dummy" else Path(path) for path in paths],
        encoder,
        folder,
        limit=limit,
        processes=settings.num_proc,
    )
    sys.stderr.write("\n".join(account.lines()) + "\n")
    if not account.samples:
        reasons = "; ".join(f"{count} {reason}" for reason, count in account.refused.items())
        raise BadSettings(f"nothing to train on in {', '.join(paths)}: {reasons or 'no conversations'}")
    return samples, account


def _trainer(settings: SftSettings, language: Language, config: PretrainedConfig, samples: Samples) -> Trainer:
    model = load_model(settings, settings, config, language)
    if settings.packing and not packs_exactly(model):
        raise BadSettings(f"--packing cannot be used: conversations in one row of a {config.model_type} see each other")
    tokenizer: Any = language.tokenizer
    tokenizer.chat_template = language.template
    trainer = Trainer(
        model=model,
        args=settings,
        train_dataset=samples.train,
        eval_dataset=samples.held_out,
        data_collator=Packed() if settings.packing else Padded(language.pad_id),
        processing_class=tokenizer,
    )
    shard(trainer)
    return trainer


def _result(trainer: Trainer, seconds: float, samples: Samples) -> Result:
    losses = {int(entry["step"]): entry["loss"] for entry in trainer.state.log_history if "loss" in entry}
    held_out = None if samples.held_out is None else trainer.evaluate()["eval_loss"]
    sharded = any(isinstance(weight, DTensor) for weight in cast("Any", trainer.model).parameters())
    return Result(trainer.state.global_step, round(seconds, 1), losses, held_out, sharded)


def _finish(settings: SftSettings, result: Result, folder: Path) -> None:
    """The report beside the model, the tokens removed, and what to do next."""
    account = json.loads((folder / "encoded" / REPORT).read_text(encoding="utf-8"))
    report = {"base": settings.model_name_or_path, "conversations": account, "training": asdict(result)}
    (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(folder / "encoded")
    make_readable(folder)
    losses = list(result.losses.values())
    course = f", loss {losses[0]:.3f} to {losses[-1]:.3f}" if losses else ""
    held_out = "" if result.held_out_loss is None else f", {result.held_out_loss:.3f} on what was held out"
    print(f"{counted(result.steps, 'step')} in {result.seconds:.0f} s{course}{held_out}; saved in {folder}")
    if settings.adapts:
        print(f"serve it: mesh-worker --model-path {settings.model_name_or_path} --lora NAME={folder}")
    else:
        print(f"serve it: mesh-worker --model-path {folder}")
