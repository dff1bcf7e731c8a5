"""Settings from flags and environment, and the settings of the worker and of `mesh up`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from gateway.config import GatewayConfig
from mesh.cli.chat.config import ChatConfig, TalkFlags
from mesh.cli.up.banner import banner
from mesh.cli.up.plan import loads_of, plan_of
from mesh.cli.up.settings import UpConfig
from mesh.config import ByteSize, ConfigError, option, parse
from mesh.errors import MeshError, invalid
from mesh.worker.config import WorkerConfig


@dataclass(frozen=True)
class Settings:
    """For tests."""

    name: str = option(help="Required.")
    count: int = option(3, "A number.", low=1, high=9)
    share: float | None = option(None, "Part of 100 %.", low=0)
    flag: bool = option(False, "On or off.")
    kind: Literal["a", "b"] = option("a", "One of two.")
    file: Path | None = option(None, "A file.")
    tag: tuple[str, ...] = option((), "Repeated.")
    size: ByteSize | None = option(None, "Bytes.", low=1)
    rest: tuple[str, ...] = option((), "Words.", positional=True)


def settings(*argv: str, **environ: str) -> Settings:
    return parse(Settings, prog="test", env_prefix="T_", argv=argv, environ=environ)


def refusal(capsys: pytest.CaptureFixture[str], *argv: str, **environ: str) -> str:
    with pytest.raises(SystemExit) as caught:
        settings(*argv, **environ)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("test: ")
    return error


def test_flags_environment_and_defaults_in_that_order():
    assert settings("--name", "x") == Settings(name="x")
    assert settings(T_NAME="e", T_COUNT="5") == Settings(name="e", count=5)
    assert settings("--count", "7", T_NAME="e", T_COUNT="5").count == 7


def test_a_variable_read_from_a_file_may_end_with_its_line():
    assert settings("--name", "x", T_COUNT="3\r\n").count == 3
    assert settings(T_NAME="sk-1\n").name == "sk-1"
    with pytest.raises(SystemExit):
        settings(T_NAME="\n")


def test_every_type():
    given = settings(
        *(
            "--name",
            "x",
            "--share",
            "0.5",
            "--flag",
            "--kind",
            "b",
            "--file",
            "/f",
            "--tag",
            "1",
            "--tag",
            "2",
            "w",
            "v",
        )
    )
    assert given == Settings("x", 3, 0.5, True, "b", Path("/f"), ("1", "2"), rest=("w", "v"))
    assert settings(T_NAME="x", T_FLAG="yes", T_TAG="1, 2", T_SHARE="2").tag == ("1", "2")
    assert not settings("--no-flag", T_NAME="x", T_FLAG="1").flag


@pytest.mark.parametrize(
    ("argv", "environ", "words"),
    [
        ([], {}, ["--name is required"]),
        (["--nmae", "x"], {}, ["--nmae", "did you mean --name?"]),
        (["--name", "x", "--count", "0"], {}, ["--count", "between 1 and 9", "0"]),
        (["--name", "x", "--count", "ten"], {}, ["--count", "whole number", "ten"]),
        (["--name", "x", "--share", "nan"], {}, ["--share", "at least 0", "nan"]),
        (["--name", "x", "--kind", "c"], {}, ["--kind", "a, b", "c"]),
        (["--name"], {}, ["--name"]),
        (["--name", "x", "--size", "4 loaves"], {}, ["--size", "such as 4GiB", "4 loaves"]),
        (["--name", "x", "--size", "0"], {}, ["--size", "at least 1", "not 0"]),
        (["--name", "x"], {"T_CUONT": "1"}, ["T_CUONT", "did you mean T_COUNT?"]),
        (["--name", "x"], {"T_COUNT": "10"}, ["T_COUNT", "between 1 and 9", "10"]),
        (["--name", "x"], {"T_FLAG": "maybe"}, ["T_FLAG", "true or false", "maybe"]),
    ],
)
def test_bad_input_is_one_sentence(
    capsys: pytest.CaptureFixture[str], argv: Sequence[str], environ: Mapping[str, str], words: Sequence[str]
):
    error = refusal(capsys, *argv, **environ)
    assert all(word in error for word in words), error


@pytest.mark.parametrize(
    ("text", "count"),
    [("1000", 1000), ("13GiB", 13 * 2**30), ("1.5 gib", 3 * 2**29), ("512MB", 512_000_000), ("2k", 0), ("7B", 7)],
)
def test_sizes_have_units(text: str, count: int, capsys: pytest.CaptureFixture[str]):
    if count:
        assert settings("--name", "x", "--size", text).size == count
    else:
        refusal(capsys, "--name", "x", "--size", text)


def test_help_names_flags_variables_and_defaults(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        settings("--help")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert all(word in text for word in ("--no-flag", "[T_COUNT]", "Default: 3.", "Part of 100 %."))


def test_a_worker_needs_a_model_unless_scripted():
    with pytest.raises(ConfigError, match="--model-path is required"):
        WorkerConfig()
    assert WorkerConfig(engine="scripted").model_path == ()


def test_vllm_takes_its_own_arguments_besides_those_of_the_model():
    given = ("tensor_parallel_size=4", "quantization=awq", 'structured={"a": [1]}', "enforce_eager=true")
    config = WorkerConfig(engine="vllm", model_path=("m",), dtype="bfloat16", vllm_option=given)
    assert config.vllm_arguments() == {
        "tensor_parallel_size": 4,
        "quantization": "awq",
        "structured": {"a": [1]},
        "enforce_eager": True,
    }
    for fields, words in (
        ({"vllm_option": ("a",)}, "--vllm-option must be name=value, not 'a'"),
        ({"device": "cuda"}, "--device has no effect with --engine vllm"),
        ({"model_path": ("a", "b")}, "--model-path can be given once with --engine vllm"),
    ):
        with pytest.raises(ConfigError, match=words):
            WorkerConfig(**{"engine": "vllm", "model_path": ("m",), **fields})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_path": ("m",), "tls_cert": Path("c")}, "--tls-cert and --tls-key"),
        ({"model_path": ("m",), "tls_ca": Path("c")}, "--tls-ca needs"),
        ({"model_path": ("m",), "label": ("x",)}, "key=value, not 'x'"),
        ({"model_path": ("m",), "kv_cache_tokens": 1, "kv_cache_share": 0.5}, "exclude each other"),
        ({"model_path": ("m",), "kv_cache_memory": ByteSize(9), "kv_cache_share": 0.5}, "exclude each other"),
        ({"engine": "scripted", "model_path": ("m",)}, "--model-path has no effect with --engine scripted"),
        ({"model_path": ("m", "n"), "model_name": ("x",)}, "once for each of the 2 --model-path"),
        ({"model_path": ("m", "n"), "chat_template": ("x",)}, "--chat-template must be given once for each of the 2"),
        ({"model_path": ("m", "n"), "model_name": ("x", "x")}, "must differ between models, not be x, x"),
        (
            {"model_path": ("m", "n"), "also_speak": ("vllm",)},
            "--also-speak vllm is for one model, but this worker is given 2",
        ),
        ({"engine": "remote", "remote_model": "m", "also_speak": ("vllm",)}, "cannot be used with --engine remote"),
        ({"model_path": ("m",), "also_speak": ("vllm",), "join_token": "x" * 16}, "--join-token needs --tls-ca"),
        ({"engine": "vllm-grpc"}, "--upstream is required with --engine vllm-grpc"),
        ({"engine": "vllm-grpc", "upstream": "grpc://h:1"}, "--upstream must be host:port, not 'grpc://h:1'"),
        ({"engine": "vllm-grpc", "upstream": "h:1", "upstream_ca": Path("c")}, "need --upstream-tls"),
        ({"engine": "vllm-grpc", "upstream": "h:1", "chat_template": ("a", "b")}, "--chat-template can be given once"),
        ({"engine": "vllm-grpc", "upstream": "h:1", "model_path": ("m",)}, "--model-path has no effect"),
        ({"model_path": ("m",), "upstream": "h:1"}, "--upstream has no effect with --engine transformers"),
        ({"model_path": ("m", "n"), "revision": "x"}, "--revision is for one model, but 2"),
        ({"model_path": ("m", "n"), "lora": ("a=x",)}, "--lora is for one model, but 2"),
        ({"model_path": ("m",), "lora": ("a",)}, "--lora must be name=path, not 'a'"),
        ({"model_path": ("m",), "lora": ("a=x", "a=y")}, "--lora must name each adapter once, not a, a"),
        ({"model_path": ("m",), "lora": ("a=x", "b=y"), "max_loras": 1}, "given 2 times, more than --max-loras"),
        ({"model_path": ("m", "n"), "gguf_file": "x"}, "--gguf-file is for one model, but 2"),
        (
            {"model_path": ("m",), "load_8bit": True, "load_4bit": True},
            "--load-8bit and --load-4bit exclude each other",
        ),
        ({"engine": "scripted", "prefix_cache": False}, "--prefix-cache has no effect with --engine scripted"),
    ],
)
def test_settings_of_a_worker_that_exclude_each_other(fields: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        WorkerConfig(**fields)


def test_names_for_a_quantization():
    assert WorkerConfig(model_path=("m",), load_8bit=True).quantization_or_alias == "int8"
    assert WorkerConfig(model_path=("m",), load_4bit=True).quantization_or_alias == "nf4"
    assert WorkerConfig(model_path=("m",), quantization="int8").quantization_or_alias == "int8"


def test_addresses_of_a_worker():
    def worker(**fields: Any) -> WorkerConfig:
        return WorkerConfig(model_path=("m",), **fields)

    assert worker().advertised(7) == "127.0.0.1:7"
    assert worker(host="::1").advertised(7) == "[::1]:7"
    assert worker(host="0.0.0.0", advertise="gpu1:9", etcd="http://etcd:2379").advertised(7) == "gpu1:9"
    with pytest.raises(MeshError, match="loopback"):
        worker(etcd="http://etcd:2379").advertised(7)
    with pytest.raises(MeshError, match=r"0\.0\.0\.0:7"):
        worker(host="0.0.0.0").advertised(7)
    assert worker(host="0.0.0.0", register=False).advertised(7) == "0.0.0.0:7"


def test_ports_and_ids_of_a_worker():
    assert WorkerConfig(model_path=("m",), port=100).metrics_port_or_default() == 1100
    assert WorkerConfig(model_path=("m",), port=0).metrics_port_or_default() == 0
    assert WorkerConfig(model_path=("m",), port=65000).metrics_port_or_default() == 0
    assert WorkerConfig(model_path=("m",), port=100, metrics_port=0).metrics_port_or_default() == 0
    assert WorkerConfig(model_path=("m",), worker_id="w").id_or_default() == "w"
    ids = {WorkerConfig(model_path=("m",), port=100).id_or_default() for _ in range(20)}
    assert len(ids) > 15
    assert all("-100-" in worker_id for worker_id in ids)


def test_what_mesh_up_serves():
    assert [[model.name for model in load] for load in loads_of(UpConfig())] == [["mesh-demo", "mesh-demo-mini"]]
    named = loads_of(UpConfig(model_path=("org/Some-Model", "/models/other/", "/models/a.b.gguf")))
    assert [[(model.name, model.path) for model in load] for load in named] == [
        [("Some-Model", "org/Some-Model")],
        [("other", "/models/other/")],
        [("a.b", "/models/a.b.gguf")],
    ]


def test_help_tells_the_values_that_its_text_does_not(capsys: pytest.CaptureFixture[str]):
    for kind, told in ((Settings, True), (TalkFlags, False)):
        with pytest.raises(SystemExit):
            parse(kind, prog="t", env_prefix="T_", argv=["--help"], environ={})
        assert ("One of " in " ".join(capsys.readouterr().out.replace("One of two", "").split())) is told


def test_adapters_of_mesh_up_are_the_first_models():
    plan = plan_of(UpConfig(lora=("sailor=mesh-demo-sailor",)))
    assert plan.models == ["mesh-demo", "sailor", "mesh-demo-mini"]
    first, second = plan.of("worker")
    assert first.argv[-2:] == ("--lora", "sailor=mesh-demo-sailor")
    assert "--lora" not in second.argv
    named = loads_of(UpConfig(model_path=("a", "b"), lora=("x=/x", "y=/y")))
    assert [model.names for (model,) in named] == [["a", "x", "y"], ["b"]]


@pytest.mark.parametrize(
    ("engine", "lora", "said"),
    [
        ("scripted", "a=b", "--lora has no effect with --engine scripted"),
        ("transformers", "sailor", "--lora must be name=path, not 'sailor'"),
    ],
)
def test_adapters_that_mesh_up_refuses(engine: Literal["scripted", "transformers"], lora: str, said: str):
    with pytest.raises(ConfigError, match=said):
        UpConfig(engine=engine, lora=(lora,))


def test_a_flag_cut_short_is_told_in_full(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parse(ChatConfig, prog="mesh chat", env_prefix="MESH_CHAT_", argv=["--temp", "1"])
    assert "did you mean --temperature?" in capsys.readouterr().err


def test_mesh_up_refuses_ports_beyond_the_last():
    with pytest.raises(ConfigError, match="65536"):
        UpConfig(worker_port=65535, workers=2)


def test_the_banner_names_where_a_client_connects():
    assert "http://127.0.0.1:8000/v1" in banner(plan_of(UpConfig(host="0.0.0.0")), "Ctrl-C")
    assert "http://[::1]:8000/v1" in banner(plan_of(UpConfig(host="::1")), "Ctrl-C")
    assert "http://gpu1:81/v1" in banner(plan_of(UpConfig(host="gpu1", port=81)), "Ctrl-C")


def test_the_banners_chat_needs_no_url_where_the_gateway_has_the_usual_one():
    assert re.search(r"talk .* chat$", banner(plan_of(UpConfig(host="0.0.0.0")), "Ctrl-C"), re.MULTILINE)
    assert "chat --url http://127.0.0.1:81" in banner(plan_of(UpConfig(port=81)), "Ctrl-C")


def test_a_file_excludes_the_flags_that_it_replaces():
    assert UpConfig(config=Path("mesh.yaml"), name="a", detach=True, echo=False).config
    with pytest.raises(ConfigError, match=r"--worker-port has no effect with --config mesh\.yaml"):
        UpConfig(config=Path("mesh.yaml"), worker_port=7)


def test_settings_are_checked_without_running(capsys: pytest.CaptureFixture[str]):
    def check(given: Settings) -> None:
        if given.count == 4:
            raise invalid("count", "4 is not to be had")

    def ask(*argv: str) -> object:
        with pytest.raises(SystemExit) as caught:
            parse(Settings, prog="test", env_prefix="T_", argv=[*argv, "--check-settings"], environ={}, check=check)
        return caught.value.code

    assert ask("--name", "x") == 0
    assert ask("--name", "x", "--count", "4") == 2
    assert "4 is not to be had" in capsys.readouterr().err


def test_secrets_are_not_shown_with_the_rest_of_a_configuration():
    config = GatewayConfig(etcd_password="hunter2-hunter2-hunter2", join_token="hunter2-hunter2-hunter2", zone="shown")
    assert "hunter2" not in repr(config)
    assert "shown" in repr(config)
    assert "hunter2" not in repr(
        WorkerConfig(
            engine="scripted",
            etcd_user="u",
            etcd_password="hunter2-hunter2-hunter2",
            join_token="hunter2-hunter2-hunter2",
        )
    )


@dataclass(frozen=True)
class Sibling:
    token: str = option("")


def test_variables_of_commands_with_the_same_prefix_may_be_set_and_others_not():
    parsed = parse(
        Settings, prog="t", env_prefix="T_", argv=[], environ={"T_NAME": "x", "T_TOKEN": "y"}, siblings=[Sibling]
    )
    assert parsed.name == "x"
    with pytest.raises(SystemExit):
        parse(Settings, prog="t", env_prefix="T_", argv=[], environ={"T_NAME": "x", "T_TOKEM": "y"}, siblings=[Sibling])
