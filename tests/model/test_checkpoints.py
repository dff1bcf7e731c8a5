"""Formats of weights other than safetensors: torch's pickles, where allowed, and GGUF files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gguf
import pytest
import torch
from transformers import PreTrainedModel

from mesh.engine.transformers.loading.loader import load
from mesh.engine.transformers.loading.options import LoadOptions
from mesh.errors import ErrorKind, MeshError
from mesh.worker.config import WorkerConfig
from mesh.worker.engines import make_engine
from tests.model import gguf_file, tiny
from tests.model.driver import Driver, prompt_of

IDS = torch.tensor([[5, 9, 33, 70, 256, 12]])
Quantized = gguf.GGMLQuantizationType


def ignore(_: str) -> None: ...


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return cast("Any", model)(input_ids=IDS).logits


def refusal(options: LoadOptions) -> MeshError:
    with pytest.raises(MeshError) as caught:
        load(options, ignore)
    assert caught.value.kind is ErrorKind.INVALID_REQUEST
    assert "\n" not in caught.value.message
    return caught.value


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreTrainedModel]:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    _, model = tiny.save(folder, "Llama")
    return folder, model


@pytest.fixture
def pickled(saved: tuple[Path, PreTrainedModel], tmp_path: Path) -> Path:
    """The same model, in torch's format and in two files."""
    folder = Path(shutil.copytree(saved[0], tmp_path / "pickled"))
    (folder / "model.safetensors").unlink()
    tensors = list(saved[1].state_dict().items())
    files = {"pytorch_model-1.bin": dict(tensors[:9]), "pytorch_model-2.bin": dict(tensors[9:])}
    for name, part in files.items():
        torch.save(part, folder / name)
    index = {"metadata": {}, "weight_map": {key: name for name, part in files.items() for key in part}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def test_pickles_are_loaded_where_that_is_allowed(pickled: Path, saved: tuple[Path, PreTrainedModel]) -> None:
    assert "only with '--allow-pickle'" in refusal(LoadOptions(str(pickled), device="cpu")).message
    loaded = load(LoadOptions(str(pickled), device="cpu", allow_pickle=True), ignore)
    assert torch.allclose(logits(loaded.model), logits(saved[1]), rtol=1e-4, atol=1e-4)
    again = load(LoadOptions(str(pickled), device="cpu", allow_pickle=True), ignore)
    assert again.fingerprint == loaded.fingerprint
    weights = torch.load(pickled / "pytorch_model-2.bin", weights_only=True)
    weights["lm_head.weight"][0, 0] += 1
    torch.save(weights, pickled / "pytorch_model-2.bin")
    assert load(LoadOptions(str(pickled), device="cpu", allow_pickle=True), ignore).fingerprint != loaded.fingerprint


class Trap:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (Path("trap-went-off"),)


@pytest.mark.parametrize("content", [{"a": Trap()}, b"garbage", b"PK\x03\x04 cut off"])
def test_a_pickle_that_is_more_than_tensors_is_refused(
    pickled: Path, content: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = pickled / "pytorch_model-1.bin"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    error = refusal(LoadOptions(str(pickled), device="cpu", allow_pickle=True))
    assert "is damaged, or holds more than tensors" in error.message
    assert not Path("trap-went-off").exists()
    if not isinstance(content, bytes):  # it is a trap
        torch.load(file, weights_only=False)
        assert Path("trap-went-off").exists()


@pytest.fixture(scope="module")
def gguf_folder(saved: tuple[Path, PreTrainedModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    gguf_file.write(folder / "whole.gguf", saved[1])
    gguf_file.write(folder / "eighth.gguf", saved[1], Quantized.Q8_0)
    return folder


async def test_a_gguf_file_answers_as_its_twin(gguf_folder: Path, saved: tuple[Path, PreTrainedModel]) -> None:
    async with Driver(str(gguf_folder / "whole.gguf")) as driver:
        info = driver.engine.models[0]
        assert (info.name, info.architecture, info.context_length) == ("whole", "LlamaForCausalLM", 256)
        assert "chat" in info.capabilities
        assert (await driver.ask(prompt_of(20))).ids == tiny.generate(saved[1], prompt_of(20), 16)
        text = "Ça va? Once upon a time."
        assert (await driver.ask(text)).ids == tiny.generate(saved[1], tiny.make_tokenizer().encode(text), 16)


def test_a_gguf_file_has_the_logits_of_its_twin(gguf_folder: Path, saved: tuple[Path, PreTrainedModel]) -> None:
    whole = load(LoadOptions(str(gguf_folder / "whole.gguf"), device="cpu"), ignore)
    assert whole.dtype == torch.float32
    assert torch.allclose(logits(whole.model), logits(saved[1]), rtol=1e-4, atol=1e-4)


def test_a_quantized_gguf_file_of_a_folder(gguf_folder: Path, saved: tuple[Path, PreTrainedModel]) -> None:
    loaded = load(LoadOptions(str(gguf_folder), gguf_file="eighth.gguf", device="cpu"), ignore)
    twin = tiny.make_model("Llama")
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.ndim > 1:
                values = gguf.dequantize(gguf.quantize(parameter.numpy(), Quantized.Q8_0), Quantized.Q8_0)
                parameter.copy_(torch.from_numpy(values))
    assert torch.allclose(logits(loaded.model), logits(twin), rtol=1e-2, atol=2e-2)
    assert not torch.allclose(logits(loaded.model), logits(saved[1]), rtol=1e-2, atol=2e-2)
    other = load(LoadOptions(str(gguf_folder), gguf_file="whole.gguf", device="cpu"), ignore)
    assert loaded.fingerprint != other.fingerprint


def test_what_may_be_wrong_with_a_gguf_file(gguf_folder: Path, tmp_path: Path) -> None:
    assert "--gguf-file eighth.gguf" in refusal(LoadOptions(str(gguf_folder), device="cpu")).message
    missing = refusal(LoadOptions(str(gguf_folder), gguf_file="no.gguf", device="cpu"))
    assert (missing.param, "holds no file 'no.gguf'" in missing.message) == ("gguf_file", True)
    twice = refusal(LoadOptions(str(gguf_folder / "whole.gguf"), gguf_file="whole.gguf", device="cpu"))
    assert twice.param == "gguf_file"
    cut = tmp_path / "cut.gguf"
    cut.write_bytes((gguf_folder / "whole.gguf").read_bytes()[:500])
    assert "is not a GGUF file, or damaged" in refusal(LoadOptions(str(cut), device="cpu")).message


@pytest.mark.parametrize(
    ("described", "changes", "param", "sentence"),
    [
        ({"quant_method": "gptq", "bits": 4}, {}, "path", "quantized by 'gptq': pip install optimum gptqmodel"),
        ({"quant_method": "awq", "bits": 4}, {}, "path", "quantized by 'awq': pip install gptqmodel"),
        ({"quant_method": "compressed-tensors"}, {}, "path", "pip install compressed-tensors"),
        ({"load_in_4bit": True, "quant_method": "bitsandbytes"}, {}, "path", "pip install bitsandbytes"),
        ({"quant_method": "abacus"}, {}, "path", "'abacus', which transformers"),
        ({"quant_method": "awq"}, {"quantization": "int8"}, "quantization", "quantized already (awq)"),
        (None, {"quantization": "nf4"}, "quantization", "pip install bitsandbytes"),
    ],
)
def test_a_quantization_that_is_not_possible_here(
    saved: tuple[Path, PreTrainedModel],
    tmp_path: Path,
    described: dict[str, Any] | None,
    changes: dict[str, Any],
    param: str,
    sentence: str,
) -> None:
    folder = Path(shutil.copytree(saved[0], tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": described}))
    error = refusal(LoadOptions(str(folder), device="cpu", **changes))
    assert sentence in error.message
    assert error.param == param


def test_a_hub_and_a_device_that_need_a_package_say_which() -> None:
    modelscope = refusal(LoadOptions("nobody/no-such-model", hub="modelscope", device="cpu"))
    assert "pip install modelscope" in modelscope.message
    assert modelscope.param == "hub"
    npu = refusal(LoadOptions("nobody/no-such-model", device="npu"))
    assert "pip install torch_npu" in npu.message
    assert npu.param == "device"


async def test_a_worker_takes_the_flags(gguf_folder: Path) -> None:
    engine = make_engine(
        WorkerConfig(model_path=(str(gguf_folder),), gguf_file="whole.gguf", device="cpu", threads=1, model_name=("m",))
    )
    await engine.start(lambda step: None)
    try:
        assert engine.models[0].name == "m"
    finally:
        await engine.stop()
    with pytest.raises(MeshError, match="ModelScope"):
        await make_engine(WorkerConfig(model_path=("nobody/none",), hub="modelscope", device="cpu")).start(
            lambda step: None
        )
