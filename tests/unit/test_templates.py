"""The built-in chat templates: what each writes, and which model gets which."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mesh.engine.base import Chat, Message
from mesh.engine.chat import ChatRenderer
from mesh.engine.text import Tokenizer
from mesh.errors import MeshError
from mesh.templates import Template, builtin, find, guess, parse
from mesh.templates.choice import choose_template, find_stops, read_template
from tests.unit.tokenizers import byte_level, metaspace

SYSTEM, QUESTION, ANSWER, NEXT = (
    Message("system", ("Be brief.",)),
    Message("user", ("Hi",)),
    Message("assistant", ("Hello",)),
    Message("user", ("Bye",)),
)
# Formats that put the beginning of a text before each user message, or around each.
BEGINS_AGAIN = {"llama-2", "phoenix"}
# Formats whose prompt has an end of its own, which the text of an answer does not.
ENDS_PROMPT = {"chatglm", "fastchat-t5"}
NAMES = list(builtin())
BOS = byte_level().get_vocab()["<s>"]


def rendered(name: str, *messages: Message, **options: Any) -> str:
    template = builtin()[name]
    return ChatRenderer(Tokenizer(byte_level()), template.text).text(Chat(messages, **options))


def shown(text: str) -> str:
    """With visible ends of lines and of the text, since spaces matter there."""
    return text.replace("\n", "⏎\n") + "■"


def expected() -> dict[str, str]:
    """The reviewed renderings by template."""
    text = (Path(__file__).parent / "renderings.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^===== (\S+)\n(.*?■)\n", text, re.MULTILINE | re.DOTALL))


def test_each_template_has_a_reviewed_rendering() -> None:
    assert list(expected()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_rendering(name: str) -> None:
    assert shown(rendered(name, SYSTEM, QUESTION, ANSWER, NEXT)) == expected()[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_text_begins_once(name: str) -> None:
    template = builtin()[name]
    for messages in ((SYSTEM, QUESTION), (QUESTION, ANSWER, NEXT)):
        ids = ChatRenderer(Tokenizer(byte_level()), template.text).render(Chat(messages))
        count = ids.count(BOS)
        if name in BEGINS_AGAIN:
            assert count > 0
        else:
            assert count == int("bos_token" in template.text)
            assert count == 0 or ids[0] == BOS


@pytest.mark.parametrize("name", sorted(set(NAMES) - ENDS_PROMPT))
def test_an_answer_goes_on_where_the_prompt_ends(name: str) -> None:
    for before in ((SYSTEM, QUESTION), (QUESTION,), (QUESTION, ANSWER, NEXT)):
        prompt = rendered(name, *before)
        whole = rendered(name, *before, ANSWER, add_generation_prompt=False)
        assert whole.startswith(prompt)
        assert whole[len(prompt) :].lstrip().startswith(("Hello", "<|channel|>final<|message|>Hello"))
        assert prompt != rendered(name, *before, add_generation_prompt=False) or name in ("llama-2", "mistral")


@pytest.mark.parametrize("name", NAMES)
def test_the_last_answer_can_be_continued(name: str) -> None:
    text = rendered(name, QUESTION, ANSWER, add_generation_prompt=False, continue_final_message=True)
    assert text.endswith("Hello")
    assert "Hi" in text


@pytest.mark.parametrize("name", NAMES)
def test_what_a_format_has_no_place_for_is_refused(name: str) -> None:
    with pytest.raises(MeshError, match="this model knows") as caught:
        rendered(name, QUESTION, Message("tool", ("42",)))
    assert caught.value.param == "messages"


@pytest.mark.parametrize("name", NAMES)
def test_a_developer_message_is_a_system_message(name: str) -> None:
    developer = Message("developer", ("Be brief.",))
    assert rendered(name, developer, QUESTION) == rendered(name, SYSTEM, QUESTION)
    assert "Be brief." in rendered(name, developer, QUESTION)


def test_a_tokenizer_without_a_beginning_has_none_written() -> None:
    hf = metaspace()
    bos, hf.bos_token = hf.bos_token, None
    try:
        text = ChatRenderer(Tokenizer(hf), builtin()["vicuna"].text).text(Chat((QUESTION,)))
    finally:
        hf.bos_token = bos
    assert text == "USER: Hi ASSISTANT:"


def test_gpt_oss_takes_the_effort_of_its_reasoning() -> None:
    low = rendered("gpt-oss", QUESTION, template_arguments={"reasoning_effort": "low"})
    assert low.startswith("<|start|>system<|message|>Reasoning: low\n")


def test_templates_have_names_of_their_own_and_say_what_they_are_for() -> None:
    names = [name for template in builtin().values() for name in (template.name, *template.aliases)]
    assert sorted(names) == sorted(set(names))
    for template in builtin().values():
        assert template.about, template.name
        assert template.names, template.name
        for name in (template.name, *template.aliases):
            assert find(name) is template


@pytest.mark.parametrize(
    ("model", "template"),
    [
        ("lmsys/vicuna-7b-v1.5", "vicuna"),
        ("vicuna-13b-delta-v0", "vicuna-v0"),
        ("stable-vicuna-13B-HF", "stable-vicuna"),
        ("longchat-7b-16k", "vicuna"),
        ("lmsys/fastchat-t5-3b-v1.0", "fastchat-t5"),
        ("chavinlo/alpaca-native", "alpaca"),
        ("WizardCoder-15B-V1.0", "alpaca"),
        ("WizardLM-13B-V1.2", "vicuna"),
        ("WizardLM-7B-V1.0", "wizardlm"),
        ("WizardLM-2-7B", "vicuna"),
        ("hfl/chinese-alpaca-2-7b", "llama-2"),
        ("baize-v2-7b", "baize"),
        ("THUDM/chatglm-6b", "chatglm"),
        ("THUDM/chatglm2-6b-int4", "chatglm2"),
        ("THUDM/chatglm3-6b", "chatglm3"),
        ("databricks/dolly-v2-12b", "dolly"),
        ("tiiuae/falcon-7b-instruct", "falcon"),
        ("tiiuae/falcon-180B-chat", "falcon-chat"),
        ("nomic-ai/gpt4all-13b-snoozy", "gpt4all"),
        ("timdettmers/guanaco-33b-merged", "vicuna-v0"),
        ("mosaicml/mpt-7b-chat", "chatml"),
        ("mosaicml/mpt-30b-instruct", "mpt-instruct"),
        ("OpenAssistant/oasst-sft-4-pythia-12b-epoch-3.5", "oasst-pythia"),
        ("OpenAssistant/oasst-sft-7-llama-30b", "oasst-llama"),
        ("openchat/openchat_3.5", "openchat"),
        ("berkeley-nest/Starling-LM-7B-alpha", "openchat"),
        ("togethercomputer/RedPajama-INCITE-7B-Chat", "redpajama"),
        ("stabilityai/stablelm-tuned-alpha-7b", "stablelm"),
        ("xDAN-AI/xDAN-L1-Chat-RL-v1", "xdan"),
        ("young-geng/koala", "koala"),
        ("HuggingFaceH4/zephyr-7b-beta", "zephyr"),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "zephyr"),
        ("mistralai/Mistral-7B-Instruct-v0.1", "mistral"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mistral"),
        ("google/gemma-2b-it", "gemma"),
        ("google/gemma-2-9b-it", "gemma"),
        ("microsoft/phi-2", "phi-2"),
        ("microsoft/Phi-3-mini-4k-instruct", "phi-3"),
        ("microsoft/phi-4", "phi-4"),
        ("deepseek-ai/deepseek-llm-7b-chat", "deepseek"),
        ("deepseek-ai/deepseek-coder-6.7b-instruct", "deepseek-coder"),
        ("deepseek-ai/DeepSeek-V3", "deepseek-v3"),
        ("01-ai/Yi-34B-Chat", "chatml"),
        ("internlm/internlm-chat-7b", "internlm"),
        ("internlm/internlm2_5-7b-chat", "internlm2"),
        ("baichuan-inc/Baichuan-13B-Chat", "baichuan"),
        ("baichuan-inc/Baichuan2-13B-Chat", "baichuan2"),
        ("Qwen/Qwen-7B-Chat", "chatml"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "chatml"),
        ("cognitivecomputations/dolphin-2.6-phi-2", "chatml"),
        ("CohereForAI/c4ai-command-r-v01", "command-r"),
        ("meta-llama/Llama-2-7b-chat-hf", "llama-2"),
        ("codellama/CodeLlama-7b-Instruct-hf", "llama-2"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama-3"),
        ("meta-llama/Llama-3.2-1B-Instruct", "llama-3"),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama-4"),
        ("openai/gpt-oss-20b", "gpt-oss"),
        ("upstage/SOLAR-10.7B-Instruct-v1.0", "solar"),
        ("allenai/tulu-7b", "tulu"),
        ("meta-llama/Llama-2-7b-hf", None),
        ("meta-llama/Meta-Llama-3-8B", None),
        ("mistralai/Mistral-7B-v0.1", None),
        ("mosaicml/mpt-7b", None),
        ("tiiuae/falcon-7b", None),
        ("google/gemma-7b", None),
        ("Qwen/Qwen2.5-0.5B", None),
        ("deepseek-ai/DeepSeek-V3-Base", None),
        ("baichuan-inc/Baichuan2-7B-Base", None),
        ("gpt2", None),
    ],
)
def test_a_model_is_known_by_its_name(model: str, template: str | None) -> None:
    found = guess([model.rsplit("/", 1)[-1]], "")
    assert (found[0].name if found else None) == template


def test_the_first_name_that_says_something_decides_and_else_the_type() -> None:
    found = guess(["my-model", "vicuna-7b"], "gpt_oss")
    assert found is not None
    assert found[0].name == "vicuna"
    assert found[1] == "the model's name 'vicuna-7b'"
    found = guess(["my-model"], "gpt_oss")
    assert found is not None
    assert found[0].name == "gpt-oss"
    assert found[1] == "the model type 'gpt_oss'"
    assert guess(["my-model"], "llama") is None


class Bare:
    """What is asked of a tokenizer."""

    chat_template: str | None = None

    def get_vocab(self) -> dict[str, int]:
        return {"a": 0, **self.get_added_vocab()}

    def get_added_vocab(self) -> dict[str, int]:
        return {"<|im_start|>": 1, "<|im_end|>": 2}


class Own(Bare):
    chat_template = "{{ messages }}"


def test_what_is_asked_for_comes_before_the_tokenizers_own_and_that_before_the_name() -> None:
    names = ["vicuna-7b"]
    assert choose_template("alpaca", Own(), names, "").template == builtin()["alpaca"]
    assert choose_template(None, Own(), names, "").template is None
    assert choose_template(None, Own(), names, "").reason == "the tokenizer's own"
    chosen = choose_template(None, Bare(), names, "")
    assert chosen.template == builtin()["vicuna"]
    assert chosen.reason == "built in, by the model's name 'vicuna-7b'"


def test_a_template_is_not_taken_for_a_tokenizer_that_does_not_have_its_tokens() -> None:
    chosen = choose_template(None, Bare(), ["zephyr-chat", "phi-3-mini"], "")
    assert chosen.template is None
    assert "phi-3" in chosen.reason
    assert "no '<|end|>'" in chosen.reason
    chosen = choose_template(None, Bare(), ["qwen-7b-chat"], "")
    assert chosen.template == builtin()["chatml"]
    nothing = choose_template(None, Bare(), ["my-model"], "llama")
    assert nothing.template is None
    assert nothing.reason.startswith("none")


def test_a_template_may_be_a_file_or_text(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text('{# mesh\nstop = ["END"]\n#}\n{{ messages }}')
    assert read_template(str(file)).stop == ("END",)
    assert read_template(str(file)).name == "mine.jinja"
    assert read_template("{{ messages }}") == Template("given", "{{ messages }}")
    assert read_template("VICUNA_v1.1") is builtin()["vicuna"]
    with pytest.raises(
        MeshError, match=r"neither a built-in template .* nor a readable file nor jinja text: 'vicunja'"
    ):
        read_template("vicunja")


def test_a_comment_that_is_no_header_is_a_comment() -> None:
    assert parse("x", "{# stop = 3 #}").stop == ()
    assert parse("x", "{# meshes are nets #}").stop == ()


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ("stop = [", "is not TOML"),
        ("stops = ['a']", "unknown key 'stops'"),
        ("stop = 'a'", "'stop' of chat template 'x' must be a list of texts"),
        ("stop = ['']", "must be a list of texts"),
        ("stop = [1]", "must be a list of texts"),
        ("about = 1", "'about' of chat template 'x' must be a text"),
    ],
)
def test_a_header_that_cannot_be_understood_is_refused(header: str, sentence: str) -> None:
    with pytest.raises(MeshError, match=re.escape(sentence)) as caught:
        parse("x", f"{{# mesh\n{header}\n#}}")
    assert caught.value.param == "chat_template"


def test_stops_are_tokens_where_the_tokenizer_has_them() -> None:
    stops = find_stops(Template("x", "", stop=("<|im_end|>", "a", "### Human:")), Bare())
    assert stops.token_ids == (2,)
    # A piece of a word is no token of its own: texts can be cut in other ways.
    assert stops.strings == ("a", "### Human:")
