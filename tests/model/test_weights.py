"""`mesh weights`: what it writes is a complete model that the engine serves, with the numbers that were meant."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import safetensors.torch
import torch
import transformers
from transformers import PreTrainedModel

from mesh.config import ByteSize
from mesh.engine.base import Chat, Message
from tests.model import tiny
from tests.model.adapters import make_adapter, read, write
from tests.model.driver import Driver, prompt_of
from training.weights.__main__ import main
from training.weights.push import contents

Saved = tuple[str, PreTrainedModel]
BESIDE = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """What a command says."""
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The sentence with which a command ends."""
    with pytest.raises(SystemExit, match="2"):
        main([str(word) for word in words])
    return capsys.readouterr().err


def tensors(folder: str | Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder's safetensors."""
    found: dict[str, torch.Tensor] = {}
    for file in Path(folder).glob("model*.safetensors"):
        found |= safetensors.torch.load_file(file)
    return found


def same(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


async def answer(folder: str | Path, prompt: list[int] | str | Chat | None = None) -> list[int]:
    """What the engine answers with a model."""
    async with Driver(str(folder)) as driver:
        return (await driver.ask(prompt or prompt_of(9), tokens=12)).ids


def load(folder: str | Path) -> PreTrainedModel:
    """A model, of which no weight may be missing or too many."""
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model, told = cast("tuple[PreTrainedModel, dict[str, Any]]", loaded)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), told
    return model


def pickled(folder: Path, model: PreTrainedModel, *, files: int = 1) -> Path:
    """The model as torch's own files."""
    folder.mkdir()
    model.config.save_pretrained(folder)
    tiny.make_tokenizer().save_pretrained(folder)
    state = list(model.state_dict().items())
    if files == 1:
        torch.save(dict(state), folder / "pytorch_model.bin")
        return folder
    names = [f"pytorch_model-{number + 1:05}-of-{files:05}.bin" for number in range(files)]
    for number, name in enumerate(names):
        torch.save(dict(state[number::files]), folder / name)
    places = {key: names[place % files] for place, (key, _) in enumerate(state)}
    index = {"metadata": {}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def grown(folder: Path, model: PreTrainedModel, tokens: int) -> Path:
    """A changed model whose tokenizer and embeddings have become longer."""
    import copy

    target = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in target.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    target.resize_token_embeddings(tokens, mean_resizing=False)
    target.save_pretrained(folder)
    tiny.make_tokenizer().save_pretrained(folder)
    return folder


# Merging


async def test_a_merged_adapter_answers_as_the_adapter(
    llama: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter, out = make_adapter(tmp_path / "law", llama[1]), tmp_path / "merged"
    run(capsys, "merge", "--adapter", adapter.path, "--base", llama[0], "--output", out)
    assert {file.name for file in out.iterdir()} == BESIDE | {"model.safetensors"}
    assert out.joinpath("model.safetensors").stat().st_mode & 0o777 == 0o644
    merged = await answer(out)
    assert merged == tiny.generate(adapter.merged, prompt_of(9), 12)
    assert merged != await answer(llama[0])


async def test_a_merged_model_has_the_adapter_s_template_and_its_base_by_default(
    llama: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "law"
    make_adapter(folder, llama[1])
    config, weights = read(folder)
    write(folder, {**config, "base_model_name_or_path": llama[0]}, weights)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}!{% endfor %}")
    (folder / "README.md").write_text("of the adapter")
    run(capsys, "merge", "--adapter", folder, "--output", tmp_path / "out", "--dtype", "bfloat16")
    assert (tmp_path / "out/chat_template.jinja").read_text() == (folder / "chat_template.jinja").read_text()
    assert not (tmp_path / "out/README.md").exists()
    assert {tensor.dtype for tensor in tensors(tmp_path / "out").values()} == {torch.bfloat16}
    said = Chat((Message("user", ("ab",)),))
    assert await answer(tmp_path / "out", said) == await answer(tmp_path / "out", "ab!")


def test_an_adapter_of_another_model_is_refused(
    saved: Callable[[str], Saved], llama: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_adapter(tmp_path / "law", llama[1])
    other = saved("GPT2")[0]
    error = refused(capsys, "merge", "--adapter", tmp_path / "law", "--base", other, "--output", tmp_path / "out")
    assert "does not fit" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["law"]


# Deltas


@pytest.mark.parametrize("dtype", [None, "float32"])
async def test_base_and_delta_are_the_target(
    llama: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: str | None
) -> None:
    base, target = tmp_path / "base", tmp_path / "target"
    run(capsys, "convert", "--model", llama[0], "--output", base, "--dtype", "bfloat16")
    grown(tmp_path / "grown", llama[1], tiny.VOCAB + 5)
    run(capsys, "convert", "--model", tmp_path / "grown", "--output", target, "--dtype", "bfloat16")
    made = run(
        capsys,
        *("delta", "make", "--base", base, "--target", target, "--output", tmp_path / "delta"),
        *(["--dtype", dtype] if dtype else []),
        *("--max-shard-size", "20KB"),
    )
    assert ("number for number" in made) == (dtype == "float32"), made
    said = run(
        capsys,
        *("delta", "apply", "--base", base, "--delta", tmp_path / "delta", "--output", tmp_path / "again"),
    )
    again, wanted = tensors(tmp_path / "again"), tensors(target)
    assert same(again, wanted) == (dtype == "float32")
    assert ("number for number" in said) == (dtype == "float32"), said
    assert all(torch.allclose(again[name], wanted[name], atol=2e-2) for name in wanted)
    assert again["lm_head.weight"].shape == (tiny.VOCAB + 5, 32)
    assert {file.name for file in (tmp_path / "again").iterdir()} == BESIDE | {"model.safetensors"}
    if dtype == "float32":
        assert await answer(tmp_path / "again") == await answer(target)


def test_a_delta_is_applied_to_its_own_base_only(
    llama: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = grown(tmp_path / "target", llama[1], tiny.VOCAB)
    run(capsys, "delta", "make", "--base", llama[0], "--target", target, "--output", tmp_path / "delta")
    other = grown(tmp_path / "other", llama[1], tiny.VOCAB)
    run(capsys, "convert", "--model", other, "--output", tmp_path / "rounded", "--dtype", "bfloat16")
    out = tmp_path / "out"
    error = refused(
        capsys, "delta", "apply", "--base", tmp_path / "rounded", "--delta", tmp_path / "delta", "--output", out
    )
    assert "is not the model that the delta was made from" in error
    assert not out.exists()
    assert not out.with_name("out.partial").exists()


def test_a_delta_of_fastchat_is_read(llama: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pickles in half precision, one token more, the rotary frequencies among the weights, and no record."""
    target = load(grown(tmp_path / "target", llama[1], tiny.VOCAB + 1))
    delta = tmp_path / "delta"
    target.config.save_pretrained(delta)
    tiny.make_tokenizer().save_pretrained(delta)
    ours = llama[1].state_dict()
    differences = {
        name: (value - torch.nn.functional.pad(ours[name], (0, 0, 0, len(value) - len(ours[name]))))
        if value.dim() == 2
        else value - ours[name]
        for name, value in target.state_dict().items()
    }
    differences["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    torch.save({name: value.half() for name, value in differences.items()}, delta / "pytorch_model.bin")
    said = run(capsys, "delta", "apply", "--base", llama[0], "--delta", delta, "--output", tmp_path / "out")
    assert "unchecked" in said
    again = load(tmp_path / "out").state_dict()
    assert all(torch.allclose(again[name], value, atol=1e-3) for name, value in target.state_dict().items())
    assert torch.allclose(again["lm_head.weight"][-1], target.state_dict()["lm_head.weight"][-1], atol=1e-3)


def test_models_of_two_kinds_have_no_delta(
    saved: Callable[[str], Saved], llama: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, out = saved("Qwen2")[0], tmp_path / "out"
    error = refused(capsys, "delta", "make", "--base", llama[0], "--target", other, "--output", out)
    assert "has 'model.layers.0.self_attn.k_proj.bias'" in error
    wide = tiny.save(tmp_path / "wide", "Llama", intermediate_size=96)[0]
    error = refused(capsys, "delta", "make", "--base", llama[0], "--target", wide, "--output", out)
    assert "is 32 x 64 in" in error
    assert "and 32 x 96 in" in error


# Files and formats


@pytest.mark.parametrize(("name", "tied"), [("Llama", False), ("Llama", True), ("T5", True), ("GPT2", True)])
async def test_pickles_become_safetensors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, tied: bool
) -> None:
    model = tiny.make_model(name, tie_word_embeddings=tied)
    source = pickled(tmp_path / "bin", model, files=2 if not tied else 1)
    run(capsys, "convert", "--model", source, "--output", tmp_path / "out")
    assert sorted(file.suffix for file in (tmp_path / "out").iterdir() if file.suffix in (".bin", ".safetensors")) == [
        ".safetensors"
    ]
    size = (tmp_path / "out/model.safetensors").stat().st_size
    assert size < sum(4 * parameter.numel() for parameter in model.parameters()) + 16_384  # nothing twice
    assert await answer(tmp_path / "out") == tiny.generate(model, prompt_of(9), 12)


def test_a_number_that_the_format_cannot_hold_is_refused(
    llama: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(llama[0], tmp_path / "model")
    weights = tensors(llama[0])
    weights["model.norm.weight"][3] = 70_000.0
    safetensors.torch.save_file(weights, tmp_path / "model/model.safetensors", metadata={"format": "pt"})
    run(capsys, "convert", "--model", tmp_path / "model", "--output", tmp_path / "fine", "--dtype", "bfloat16")
    assert json.loads((tmp_path / "fine/config.json").read_text())["dtype"] == "bfloat16"
    error = refused(
        capsys, "convert", "--model", tmp_path / "model", "--output", tmp_path / "out", "--dtype", "float16"
    )
    assert "1 numbers of 'model.norm.weight' are beyond 65504, the largest of float16" in error


async def test_shards_are_no_larger_than_asked(
    llama: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(capsys, "shard", "--model", llama[0], "--output", out, "--max-shard-size", "50KB")
    shards = sorted(out.glob("model-*.safetensors"))
    assert len(shards) > 3
    assert all(shard.stat().st_size <= 50_000 + 4096 for shard in shards)  # and a head with the names
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == tensors(llama[0]).keys()
    assert same(tensors(out), tensors(llama[0]))
    assert await answer(out) == await answer(llama[0])
    run(capsys, "shard", "--model", out, "--output", tmp_path / "one", "--max-shard-size", "1GB")
    assert same(tensors(tmp_path / "one"), tensors(out))


def test_a_file_that_cannot_be_written_whole_is_one_sentence(
    llama: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, hard))
    try:
        said = refused(capsys, "shard", "--model", llama[0], "--output", tmp_path / "out", "--max-shard-size", "1GB")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "model.safetensors' cannot be written" in said
    assert list(tmp_path.iterdir()) == []


def test_a_missing_shard_is_named(llama: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "shard", "--model", llama[0], "--output", tmp_path / "out", "--max-shard-size", "50KB")
    lost = sorted((tmp_path / "out").glob("model-*.safetensors"))[1]
    lost.unlink()
    error = refused(capsys, "convert", "--model", tmp_path / "out", "--output", tmp_path / "more")
    assert f"lacks '{lost.name}'" in error


def test_a_pickle_that_runs_code_is_refused(llama: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pickled(tmp_path / "bin", llama[1])
    torch.save({"model.norm.weight": shutil.rmtree}, folder / "pytorch_model.bin")
    error = refused(capsys, "convert", "--model", folder, "--output", tmp_path / "out")
    assert "cannot be read as tensors alone" in error


def test_nothing_is_overwritten_and_what_a_kill_left_is_swept(
    llama: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    error = refused(capsys, "convert", "--model", llama[0], "--output", out)
    assert "exists and is no empty folder" in error
    assert [file.name for file in out.iterdir()] == ["mine"]
    (out / "mine").unlink()
    half = tmp_path / "out.partial"
    half.mkdir()
    (half / "model-00007-of-00009.safetensors").touch()
    run(capsys, "convert", "--model", llama[0], "--output", out)
    assert {file.name for file in out.iterdir()} == BESIDE | {"model.safetensors"}
    assert not half.exists()


def test_a_quantized_model_keeps_its_format(llama: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(llama[0], tmp_path / "model")
    config: dict[str, Any] = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    words = ("--model", tmp_path / "model", "--output", tmp_path / "out")
    assert "is quantized" in refused(capsys, "convert", *words, "--dtype", "float16")
    run(capsys, "shard", *words, "--max-shard-size", str(ByteSize("1GB")))


# To the hub


def test_what_would_go_to_the_hub(llama: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama[0], folder)
    for name in ("optimizer.pt", "trainer_state.json", "training_args.bin", ".secret", "README.md"):
        (folder / name).write_text("{}")
    (folder / "checkpoint-10").mkdir()
    (folder / "checkpoint-10/model.safetensors").touch()
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text("{}")
    assert contents(folder) == sorted(BESIDE | {"model.safetensors", "README.md", "1_Pooling/config.json"})
    said = run(capsys, "push", "--model", folder, "--repo", "me/mine", "--dry-run")
    assert "8 files" in said
    assert "would go to me/mine" in said
    (folder / "model.safetensors").unlink()
    assert "holds no weights" in refused(capsys, "push", "--model", folder, "--repo", "me/mine", "--dry-run")


def test_commands_by_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "did you mean delta make?" in refused(capsys, "delta", "mak")
    assert "--output is required" in refused(capsys, "convert", "--model", tmp_path)
    assert "holds no config.json" in refused(capsys, "convert", "--model", tmp_path, "--output", tmp_path / "out")
    assert "delta apply" in run(capsys, "--help")
