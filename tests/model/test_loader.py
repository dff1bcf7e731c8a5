"""Loading: what a folder becomes, and one clear sentence for everything that may be wrong with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from mesh.engine.base import Chat, Message
from mesh.engine.transformers.loading.checkpoint import find_checkpoint
from mesh.engine.transformers.loading.fingerprint import fingerprint
from mesh.engine.transformers.loading.loader import LoadedModel, load
from mesh.engine.transformers.loading.options import LoadOptions
from mesh.errors import ErrorKind, MeshError
from mesh.worker.config import WorkerConfig
from mesh.worker.engines import make_engine
from tests.model import tiny

safetensors_torch: Any = safetensors.torch  # without types


def ignore(_: str) -> None: ...


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny.save(folder, "Llama")
    return folder


@pytest.fixture
def copy(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "copy"))


def options(folder: Path, **changes: Any) -> LoadOptions:
    return replace(LoadOptions(str(folder), device="cpu"), **changes)


def test_a_folder_becomes_a_model_that_is_ready(model_folder: Path) -> None:
    said: list[str] = []
    loaded = load(options(model_folder), said.append)
    assert loaded.name == "tiny-llama"
    assert loaded.architecture == "LlamaForCausalLM"
    assert (loaded.dtype, loaded.device.type) == (torch.float32, "cpu")
    assert (loaded.context_length, loaded.vocab_size) == (256, tiny.VOCAB)
    assert loaded.eos_token_ids == (tiny.EOS,)
    assert loaded.tokenizer.eos_token_ids == (tiny.EOS,)
    assert loaded.parameters == sum(p.numel() for p in tiny.make_model("Llama").parameters())
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert any("loading weights" in sentence for sentence in said)
    chat = Chat((Message("user", ("hi",)),))
    assert loaded.has_chat_template
    assert loaded.tokenizer.decode(loaded.chat.render(chat)) == "user: hiassistant: "


def test_options_are_honoured(model_folder: Path, tmp_path: Path) -> None:
    template = tmp_path / "own.jinja"
    template.write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    wanted = options(
        model_folder, name="served", dtype="bfloat16", context_length=100, threads=1, chat_template=str(template)
    )
    loaded = load(wanted, ignore)
    assert (loaded.name, loaded.dtype, loaded.context_length) == ("served", torch.bfloat16, 100)
    assert next(loaded.model.parameters()).dtype == torch.bfloat16
    assert loaded.chat.text(Chat((Message("user", ("hi",)),))) == "[hi]"


@pytest.mark.parametrize("allowed", [False, True])
async def test_a_worker_takes_templates_of_requests_only_where_it_is_told_to(model_folder: Path, allowed: bool) -> None:
    paths = (str(model_folder),)
    engine = make_engine(WorkerConfig(model_path=paths, device="cpu", threads=1, allow_chat_templates=allowed))
    await engine.start(lambda step: None)
    try:
        own = Chat((Message("user", ("hi",)),), chat_template="{{ messages[0].content }}!")
        asked = engine.tokenize(engine.models[0].name, own, add_special_tokens=False)
        if allowed:
            assert await asked == tiny.make_tokenizer().encode("hi!", add_special_tokens=False)
        else:
            with pytest.raises(MeshError, match="--allow-chat-templates") as caught:
                await asked
            assert caught.value.kind is ErrorKind.UNSUPPORTED
    finally:
        await engine.stop()


def test_a_16_bit_checkpoint_is_float32_on_a_cpu(tmp_path: Path) -> None:
    model: Any = tiny.make_model("Llama")
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    tiny.make_tokenizer().save_pretrained(tmp_path)
    assert load(options(tmp_path), ignore).dtype == torch.float32


def test_an_encoder_decoder_loads_too(tmp_path: Path) -> None:
    tiny.save(tmp_path, "T5")
    assert load(options(tmp_path), ignore).architecture == "T5ForConditionalGeneration"


def test_several_end_tokens_of_the_generation_settings(copy: Path) -> None:
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    assert load(options(copy), ignore).eos_token_ids == (5, 6, tiny.EOS)


def test_a_template_of_its_own_is_part_of_the_fingerprint(model_folder: Path) -> None:
    plain = load(options(model_folder), ignore)
    assert load(options(model_folder), ignore).fingerprint == plain.fingerprint
    assert load(options(model_folder, chat_template="{{ messages }}"), ignore).fingerprint != plain.fingerprint
    assert load(options(model_folder, dtype="bfloat16"), ignore).fingerprint != plain.fingerprint


def mark(folder: Path) -> str:
    checkpoint = find_checkpoint(folder, gguf=None, allow_pickle=False)
    return fingerprint(checkpoint, json.loads((folder / "config.json").read_text()), None, "float32")


def flip_last_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_one_changed_byte_of_weights_or_tokenizer_changes_the_fingerprint(copy: Path, model_folder: Path) -> None:
    assert mark(copy) == mark(model_folder)
    flip_last_byte(copy / "model.safetensors")
    changed = mark(copy)
    assert changed != mark(model_folder)
    tokenizer = copy / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("</s>", "</t>"))
    assert mark(copy) not in (changed, mark(model_folder))


def test_each_byte_of_files_up_to_64_mib_counts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    file = tmp_path / "model.safetensors"
    safetensors_torch.save_file({"a": torch.zeros(40 * 2**20, dtype=torch.uint8)}, file)
    marks = {mark(tmp_path)}
    for place in range(6):
        with file.open("r+b") as stream:
            stream.seek(2**20 + place * 5_000_011)
            stream.write(b"\1")
        marks.add(mark(tmp_path))
    assert len(marks) == 7


def test_large_weight_files_count_by_header_and_samples(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    file = tmp_path / "model.safetensors"
    safetensors_torch.save_file({"a": torch.zeros(80 * 2**20, dtype=torch.uint8)}, file)
    first = mark(tmp_path)
    flip_last_byte(file)
    assert mark(tmp_path) != first


def edit_config(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "config.json"
        config = json.loads(file.read_text())
        change(config)
        file.write_text(json.dumps(config))

    return edit


def remove(name: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / name).unlink()

    return edit


def write(name: str, text: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / name).write_text(text)

    return edit


def remove_tokenizer(folder: Path) -> None:
    for file in [*folder.glob("token*"), *folder.glob("special*"), *folder.glob("chat_template*")]:
        file.unlink()


def drop_tensor(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = safetensors_torch.load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    safetensors_torch.save_file(tensors, file, {"format": "pt"})


def other_shape(folder: Path) -> None:
    edit_config(lambda config: config.update(intermediate_size=48))(folder)


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 1000)


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def adapter_only(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


# What a clone without Git LFS has in place of a large file.
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


def missing_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (remove("config.json"), "holds no config.json"),
        (write("config.json", "{no"), "is not valid JSON"),
        (write("config.json", "[]"), "is not a JSON object"),
        (edit_config(lambda config: config.update(model_type="nonesuch")), "'nonesuch' is not known to transformers"),
        (
            edit_config(lambda config: config.update(model_type="own", auto_map={"AutoConfig": "own.Own"})),
            "-remote-code",
        ),
        (edit_config(lambda config: config.update(model_type="vit")), "'vit', which does not generate text"),
        (edit_config(lambda config: config.update(model_type="bert")), "an encoder (type 'bert'), which does not"),
        (edit_config(lambda config: config.update(model_type="xlm")), "type 'xlm', which needs inputs beyond"),
        (remove_tokenizer, "holds no tokenizer"),
        (write("tokenizer.json", "{}"), "tokenizer in"),
        (remove("model.safetensors"), "holds no weights"),
        (pickle_only, "pickled weights are loaded only with"),
        (missing_shard, "is missing, which 'model.safetensors.index.json' names"),
        (truncate, "is damaged: it has"),
        (garbage, "is not a safetensors file"),
        (write("model.safetensors", LFS), "model.safetensors' only points to the file, which Git LFS fetches"),
        (write("tokenizer.json", LFS), "tokenizer.json' only points to the file, which Git LFS fetches"),
        (adapter_only, "holds no config.json: it is an adapter, to be served by '--lora NAME=FOLDER'"),
        (drop_tensor, "lack 1 tensors, such as 'model.layers.1.mlp.up_proj.weight'"),
        (other_shape, "cannot be loaded"),
    ],
)
def test_a_damaged_folder_is_one_clear_sentence(copy: Path, damage: Callable[[Path], None], sentence: str) -> None:
    damage(copy)
    with pytest.raises(MeshError) as caught:
        load(options(copy), ignore)
    assert caught.value.kind is ErrorKind.INVALID_REQUEST
    assert caught.value.param == "path"
    assert sentence in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 600


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"path": "/nowhere/at all"}, "there is no folder '/nowhere/at all'"),
        ({"path": "nobody/no-such-model"}, "the hub cannot be reached"),
        ({"revision": "v1"}, "it is for models of the hub"),
        ({"device": "abacus"}, "'device' must be auto, cpu"),
        ({"device": "cuda:99"}, "this machine has"),
        ({"dtype": "int3"}, "'dtype' must be auto, float32"),
        ({"context_length": 257}, "between 1 and the model's own 256, not 257"),
        ({"context_length": 0}, "between 1 and the model's own 256, not 0"),
        ({"chat_template": "/no/such.jinja"}, "neither a built-in template"),
    ],
)
def test_a_bad_option_is_one_clear_sentence(model_folder: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MeshError) as caught:
        load(options(model_folder, **changes), ignore)
    assert sentence in caught.value.message
    assert caught.value.param == next(iter(changes))


def test_a_file_is_no_model(model_folder: Path) -> None:
    with pytest.raises(MeshError, match="is a file: a model is a folder"):
        load(options(model_folder / "config.json"), ignore)


def test_default_threads_is_what_this_process_may_use() -> None:
    program = (
        "import os; from mesh.engine.transformers.loading.device import default_threads as threads\n"
        "print(threads()); os.environ['OMP_NUM_THREADS'] = '7'; print(threads())\n"
        "del os.environ['OMP_NUM_THREADS']; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(threads())"
    )
    environ = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environ, check=True)
    free, given, pinned = map(int, done.stdout.split())
    assert 1 <= free <= len(os.sched_getaffinity(0))
    assert (given, pinned) == (7, 1)


def test_the_loaded_model_computes_what_the_saved_one_does(model_folder: Path) -> None:
    loaded: LoadedModel = load(options(model_folder), ignore)
    prompt = loaded.tokenizer.encode("once upon")
    assert tiny.generate(loaded.model, prompt, 8) == tiny.generate(tiny.make_model("Llama"), prompt, 8)
