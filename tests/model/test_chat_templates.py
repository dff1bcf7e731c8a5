"""Chat templates in the engine: how a model without one gets one, and how a template's ends end an answer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mesh.engine.base import Chat, Constraint, Message
from mesh.engine.transformers.loading.loader import LoadedModel, load
from mesh.engine.transformers.loading.options import LoadOptions
from mesh.errors import ErrorKind, MeshError
from mesh.worker.config import WorkerConfig
from mesh.worker.engines import make_engine
from tests.model import tiny
from tests.model.driver import Answer, Driver

CHAT = Chat((Message("user", ("Tell me",)),))
TOKENS = 24
PAD = 258  # <pad> of the tokenizer


def save_without_template(folder: Path) -> str:
    tiny.save(folder, "Llama")
    (folder / "chat_template.jinja").unlink()
    return str(folder)


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose name says nothing and whose tokenizer has no template."""
    return save_without_template(tmp_path_factory.mktemp("models") / "llama-7b")


def loaded(path: str, template: str | None = None) -> tuple[LoadedModel, str]:
    said: list[str] = []
    model = load(LoadOptions(path, device="cpu", threads=1, chat_template=template), said.append)
    return model, next(sentence for sentence in said if sentence.startswith("chat template"))


def test_the_folders_name_chooses_a_template_and_the_log_says_so(tmp_path: Path) -> None:
    model, said = loaded(save_without_template(tmp_path / "vicuna-7b-v1.5"))
    assert model.has_chat_template
    assert model.chat.text(CHAT) == "<s>USER: Tell me ASSISTANT:"
    assert said == "chat template: vicuna, built in, by the model's name 'vicuna-7b-v1.5'"


def test_so_does_the_folder_of_a_hubs_cache(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--databricks--dolly-v2-3b" / "snapshots" / "0a1b2c"
    _, said = loaded(save_without_template(snapshot))
    assert said.startswith("chat template: dolly, built in")


def test_so_does_the_name_under_which_it_was_saved(tmp_path: Path) -> None:
    path = save_without_template(tmp_path / "mine")
    file = tmp_path / "mine" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "_name_or_path": "young-geng/koala"}))
    _, said = loaded(path)
    assert said.startswith("chat template: koala, built in")


def test_an_unknown_model_has_none_and_says_which_flag_gives_it_one(base_model: str) -> None:
    model, said = loaded(base_model)
    assert said.startswith("chat template: none")
    assert not model.has_chat_template
    with pytest.raises(MeshError, match="--chat-template NAME") as caught:
        model.chat.render(CHAT)
    assert caught.value.kind is ErrorKind.UNSUPPORTED


def test_the_flag_comes_first_and_the_fingerprint_tells_templates_apart(base_model: str) -> None:
    plain, vicuna, alpaca = (loaded(base_model, name)[0] for name in (None, "vicuna", "alpaca"))
    assert alpaca.chat.text(CHAT) == "<s>### Instruction:\nTell me\n\n### Response:"
    assert len({plain.fingerprint, vicuna.fingerprint, alpaca.fingerprint}) == 3


def test_a_template_that_is_not_there_is_said_before_the_weights_are_loaded(base_model: str) -> None:
    said: list[str] = []
    with pytest.raises(MeshError, match="'vicunja'"):
        load(LoadOptions(base_model, device="cpu", threads=1, chat_template="vicunja"), said.append)
    assert said == []


async def test_each_model_of_a_worker_has_its_template(base_model: str) -> None:
    names = ("a", "b")
    engine = make_engine(
        WorkerConfig(
            model_path=(base_model,) * 2,
            model_name=names,
            device="cpu",
            threads=1,
            chat_template=("vicuna", "alpaca"),
        )
    )
    await engine.start(lambda step: None)
    try:
        texts = [await engine.detokenize(name, await engine.tokenize(name, CHAT)) for name in names]
    finally:
        await engine.stop()
    assert texts == ["USER: Tell me ASSISTANT:", "### Instruction:\nTell me\n\n### Response:"]


def template_with(*stop: str) -> str:
    return f"{{# mesh\nstop = {json.dumps(list(stop))}\n#}}\n{{% for m in messages %}}{{{{ m.content }}}}{{% endfor %}}"


async def answer_with(path: str, *stop: str, prompt: Chat | str = CHAT, **sampling: Any) -> Answer:
    """The answer where the template names these stops."""
    async with Driver(path, chat_template=template_with(*stop)) as driver:
        return await driver.ask(prompt, tokens=TOKENS, sampling={"ignore_eos": False, **sampling})


async def stop_string(path: str) -> tuple[str, str]:
    """Two characters of the answer that stand there for the first time, and the text before them."""
    text = (await answer_with(path, "never said")).text[0]
    place = next(place for place in range(6, len(text)) if text.index(text[place : place + 2]) == place)
    return text[place : place + 2], text[:place]


async def test_a_stop_string_of_the_template_ends_an_answer_and_resumes_exactly(base_model: str) -> None:
    stop, before = await stop_string(base_model)
    options = {"ignore_eos": False}
    async with Driver(base_model, chat_template=template_with("never said", stop), max_rows=TOKENS) as driver:
        whole = await driver.ask(CHAT, tokens=TOKENS, sampling=options)
        assert whole.text[0] == before
        assert whole.ends[0].stop_string == stop
        for done in range(len(whole.ids)):
            rest = await driver.ask(CHAT, tokens=TOKENS, sampling=options, resume={0: whole.ids[:done]})
            assert rest.ids == whole.ids[done:]
            assert whole.text[0].endswith(rest.text.get(0, ""))
            assert rest.ends[0] == replace(whole.ends[0], key=rest.ends[0].key)


async def test_the_clients_stop_strings_count_too(base_model: str) -> None:
    stop, before = await stop_string(base_model)
    answer = await answer_with(base_model, "never said", stop=(*map(str, range(100, 163)), stop))
    assert answer.text[0] == before


async def test_a_stop_string_of_the_template_does_not_end_what_is_no_chat(base_model: str) -> None:
    stop, _ = await stop_string(base_model)
    answer = await answer_with(base_model, stop, prompt="Tell me")
    assert len(answer.ids) == TOKENS
    assert stop in answer.text[0]


async def test_a_stop_string_of_the_template_does_not_end_an_answer_that_a_grammar_describes(base_model: str) -> None:
    async with Driver(base_model, chat_template=template_with("ab")) as driver:
        answer = await driver.ask(CHAT, constraint=Constraint("regex", "xxabyy"), sampling={"ignore_eos": False})
    assert answer.text[0] == "xxabyy"


async def test_a_stop_that_is_a_token_ends_an_answer_as_one(base_model: str) -> None:
    always: dict[str, Any] = {"logit_bias": {PAD: 100.0}}
    assert len((await answer_with(base_model, "never said", **always)).ids) == TOKENS
    answer = await answer_with(base_model, "<pad>", **always)
    assert (answer.ids, answer.text[0], answer.ends[0].stop_token_id) == ([PAD], "", PAD)
    later = await answer_with(base_model, "<pad>", min_tokens=3, **always)
    assert (len(later.ids), later.ids.index(PAD)) == (4, 3)
    assert len((await answer_with(base_model, "<pad>", ignore_eos=True, **always)).ids) == TOKENS
