"""What a model is trained on: the answers and the ends of their turns, for every template and family of tokenizers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import training.conversations
from mesh.engine.base import Chat, Message
from mesh.engine.chat import ChatRenderer
from mesh.engine.text import Tokenizer
from mesh.templates import builtin
from tests.unit.tokenizers import FAMILIES
from training.masks import IGNORED, Masker, Refusal, Sample, Unmaskable, chat_message

# The prompt of these has an end of its own: one is of an encoder-decoder model, one of a prefix model.
ENDS_PROMPT = {"chatglm", "fastchat-t5"}
NAMES = sorted(set(builtin()) - ENDS_PROMPT)
WORDS = ("hello", "world", "a", "日本", "hello world", "world a")
# What has broken masks elsewhere: tags, ends of turns, and white space that tokens reach across.
PITFALLS = (
    "ASSISTANT:",
    "USER: hello",
    "</s>",
    "<|im_end|>",
    "### Response:",
    "\n\n",
    " ",
    "[/INST]",
    "é🙂",
    "{{ a }}",
)
ChatMessage = dict[str, Any]


def message(role: str, content: str) -> ChatMessage:
    return {"role": role, "content": content}


def conversation(*contents: str, system: str | None = None) -> list[ChatMessage]:
    """User and assistant in turns."""
    turns = [message(("user", "assistant")[place % 2], content) for place, content in enumerate(contents)]
    return [message("system", system), *turns] if system is not None else turns


def masker(name: str, family: str = "byte level", **options: Any) -> Masker:
    return Masker(FAMILIES[family](), builtin()[name].text, **options)


def runs(sample: Sample) -> list[tuple[int, int]]:
    """Where the labels are, the ends exclusive."""
    marked = [False, *(label != IGNORED for label in sample.labels), False]
    edges = [place for place in range(1, len(marked)) if marked[place] != marked[place - 1]]
    return [(start - 1, end - 1) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def prompts(name: str, family: str, messages: list[ChatMessage]) -> list[list[int]]:
    """The token ids that a worker gives the model before each answer."""
    renderer = ChatRenderer(Tokenizer(FAMILIES[family]()), builtin()[name].text)
    turns = [Message(turn["role"], (turn["content"],)) for turn in messages]
    places = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
    return [renderer.render(Chat(tuple(turns[:place]))) for place in places]


def assert_exact(name: str, family: str, messages: list[ChatMessage], sample: Sample) -> None:
    """Each answer is labelled to its end, right after the prompt that a worker would make, and nothing else is."""
    tokenizer = FAMILIES[family]()
    answers = [turn["content"] for turn in messages if turn["role"] == "assistant"]
    found = runs(sample)
    assert len(found) == len(answers)
    for (start, end), prompt, answer in zip(found, prompts(name, family, messages), answers, strict=True):
        assert sample.input_ids[:start] == prompt
        assert sample.labels[start:end] == sample.input_ids[start:end]
        said: Any = tokenizer.decode(sample.labels[start:end])
        assert answer.strip().replace(" ", "") in said.replace(" ", "")
    assert sample.supervised == sum(end - start for start, end in found)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NAMES)
def test_answers_are_labelled_and_nothing_else(name: str, family: str) -> None:
    for system in (None, "world"):
        messages = conversation("hello", "hello world", "world", "a", system=system)
        assert_exact(name, family, messages, masker(name, family).sample(messages))


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_conversation_is_exact_or_refused(family: str, data: st.DataObject) -> None:
    known = st.sampled_from(WORDS + (PITFALLS if family.startswith("byte") else ()))
    text = st.lists(known, min_size=1, max_size=4).map("".join)
    contents = data.draw(st.lists(st.tuples(text, text), min_size=1, max_size=4).map(lambda pairs: sum(pairs, ())))
    messages = conversation(*contents, system=data.draw(st.none() | text))
    name = data.draw(st.sampled_from(NAMES))
    try:
        sample = masker(name, family).sample(messages)
    except Unmaskable:
        assert any(pitfall in turn["content"] for turn in messages for pitfall in PITFALLS)
    else:
        assert_exact(name, family, messages, sample)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_the_labelled_tokens_are_those_within_the_answers(data: st.DataObject) -> None:
    """Counted a second way: by the tokenizer's offsets into the text, and answers that occur once in it."""
    tokenizer = FAMILIES["byte fallback"]()
    name = data.draw(st.sampled_from(NAMES))
    asked = data.draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4))
    messages = conversation(*(text for place, word in enumerate(asked) for text in (word, f"qz{place}x{word}zq")))
    own = masker(name, "byte fallback")
    sample, text = own.sample(messages), own.render(messages, prompt=False)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    within = 0
    for answer in (turn["content"] for turn in messages[1::2]):
        start = text.index(answer)
        within += sum(start <= left and right <= start + len(answer) for left, right in encoded["offset_mapping"])
    ends = [sample.labels[start:end] for start, end in runs(sample)]
    inside = sum(len(tokenizer.encode(turn["content"], add_special_tokens=False)) for turn in messages[1::2])
    assert within == inside
    assert inside <= sample.supervised == sum(map(len, ends))


def test_reasoning_has_the_names_of_all_families() -> None:
    """As a worker gives it to templates; one that reads another name would leave it out without a word."""
    template = "{% for m in messages %}[{{ m.reasoning_content }}{{ m.reasoning }}]{{ m.content }}{% endfor %}"
    for key in ("reasoning", "reasoning_content"):
        thought = chat_message(training.conversations.Message("assistant", "world", {key: "hello"}))
        found = Masker(FAMILIES["byte level"](), template).render([thought], prompt=False)
        assert found == "[hellohello]world"


# What FastChat's training got wrong.


@pytest.mark.parametrize("family", FAMILIES)
def test_no_tokenizer_needs_an_offset(family: str) -> None:
    """FastChat takes two tokens from each turn, one more for newer tokenizers."""
    messages = conversation("hello", "world", "hello", "world")
    sample = masker("vicuna", family).sample(messages)
    (start, end), _ = runs(sample)
    said: Any = FAMILIES[family]().decode(sample.labels[start:end])
    assert said.replace(" ", "") == "world</s>"
    assert sample.input_ids[:start] == prompts("vicuna", family, messages)[0]


@pytest.mark.parametrize("said", ["ASSISTANT: world", "hello</s>USER: a", "USER: hello ASSISTANT:", "a</s></s>"])
def test_a_question_with_tags_masks_nothing_else(said: str) -> None:
    """FastChat cuts the text at its tags; where the count is off, no token of the sample is trained on."""
    messages = conversation(said, "hello world", said, "a")
    assert_exact("vicuna", "byte level", messages, masker("vicuna").sample(messages))


def test_a_system_message_stays_in_its_conversation() -> None:
    """FastChat keeps it in the template for the conversations after it."""
    own = masker("vicuna")
    own.sample(conversation("hello", "world", system="Be evil."))
    after = own.sample(conversation("hello", "world"))
    assert after == masker("vicuna").sample(conversation("hello", "world"))
    assert "evil" not in FAMILIES["byte level"]().decode(after.input_ids)


@pytest.mark.parametrize("name", NAMES)
def test_the_last_answer_is_labelled_to_its_end(name: str) -> None:
    """FastChat's splitting loses the last pair."""
    tokenizer = FAMILIES["byte level"]()
    messages = conversation("hello", "world", "hello", "the last")
    sample = masker(name).sample(messages)
    start, end = runs(sample)[-1]
    assert "the last" in tokenizer.decode(sample.labels[start:end])
    assert any(label == tokenizer.eos_token_id for label in sample.labels[start:end])


# Refusals and limits.


@pytest.mark.parametrize(
    ("messages", "refusal"),
    [
        (conversation("hello"), Refusal.NO_ANSWER),
        (conversation("hello", " \n"), Refusal.EMPTY_ANSWER),
        (conversation("hello", "wor</s>ld"), Refusal.END_INSIDE),
        ([message("tool", "hello"), message("assistant", "a")], Refusal.TEMPLATE),
    ],
)
def test_what_cannot_be_trained_on_is_refused(messages: list[ChatMessage], refusal: Refusal) -> None:
    with pytest.raises(Unmaskable) as caught:
        masker("vicuna").sample(messages)
    assert caught.value.refusal is refusal


def test_an_answer_that_begins_within_a_token_is_refused() -> None:
    """The prompt ends in `h`, and `he` is one token: served, the model never reads what it was trained after."""
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    with pytest.raises(Unmaskable, match="reaches back into the prompt") as caught:
        Masker(FAMILIES["byte level"](), template).sample(conversation("oh", "ello"))
    assert caught.value.refusal is Refusal.START_INSIDE


def test_a_template_that_rewrites_what_was_said_is_refused_but_for_the_last_answer() -> None:
    template = "{% for message in messages %}{{ message.content if loop.last else 'x' }}{% endfor %}"
    tokenizer, messages = FAMILIES["byte level"](), conversation("hello", "world", "a", "b")
    with pytest.raises(Unmaskable) as caught:
        Masker(tokenizer, template).sample(messages)
    assert caught.value.refusal is Refusal.REWRITTEN
    last = "{% for message in messages %}{{ message.content if loop.index > 3 else 'x' }}{% endfor %}"
    sample = Masker(tokenizer, last, last_only=True).sample(messages)
    assert tokenizer.decode(sample.input_ids) == "xxxb</s>"
    assert [tokenizer.decode(label) for label in sample.labels if label != IGNORED] == ["b", "</s>"]


def test_a_long_conversation_is_cut_at_its_end() -> None:
    messages = conversation("hello", "world", "hello", "a")
    whole = masker("vicuna").sample(messages)
    (start, _), (second, _) = runs(whole)
    cut = masker("vicuna", max_length=second).sample(messages)
    assert (cut.input_ids, cut.labels, cut.truncated) == (whole.input_ids[:second], whole.labels[:second], True)
    assert not whole.truncated
    with pytest.raises(Unmaskable) as caught:
        masker("vicuna", max_length=start).sample(messages)
    assert caught.value.refusal is Refusal.TOO_LONG


def test_answers_that_are_cut_off_are_not_looked_up() -> None:
    """Each takes as long as all before it: a chat of a thousand turns took seconds, one of ten thousand minutes."""
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    tokenizer, messages = FAMILIES["byte level"](), conversation("hello", "world", "a", "a", "oh", "ello")
    with pytest.raises(Unmaskable, match=Refusal.START_INSIDE):
        Masker(tokenizer, template).sample(messages)
    cut = Masker(tokenizer, template, max_length=6).sample(messages)
    assert (tokenizer.decode(cut.input_ids), cut.truncated) == ("hellowor", True)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_cut_takes_nothing_but_the_end(data: st.DataObject) -> None:
    name, family = data.draw(st.sampled_from(NAMES)), data.draw(st.sampled_from(sorted(FAMILIES)))
    words = st.lists(st.sampled_from(WORDS), min_size=2, max_size=6).filter(lambda words: len(words) % 2 == 0)
    messages = conversation(*data.draw(words))
    whole = masker(name, family).sample(messages)
    length = data.draw(st.integers(1, len(whole.input_ids) + 1))
    labels, limited = whole.labels[:length], masker(name, family, max_length=length)
    if set(labels) == {IGNORED}:
        with pytest.raises(Unmaskable, match=Refusal.TOO_LONG):
            limited.sample(messages)
        return
    cut = limited.sample(messages)
    assert (cut.input_ids, cut.labels) == (whole.input_ids[:length], labels)
    assert cut.truncated == (length < len(whole.input_ids))


def test_the_last_answer_alone() -> None:
    messages = conversation("hello", "world", "hello", "a")
    every, last = (masker("vicuna", last_only=alone).sample(messages) for alone in (False, True))
    assert every.input_ids == last.input_ids
    assert runs(last) == runs(every)[-1:]


# The template's own marks.

MARKED = (
    "{% for message in messages %}<{{ message.role }}>"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content + eos_token }}{% endgeneration %}"
    "{% else %}{{ message.content }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("family", FAMILIES)
def test_marks_of_the_template_are_taken(family: str) -> None:
    tokenizer = FAMILIES[family]()
    sample = Masker(tokenizer, MARKED).sample(conversation("hello", "hello world", "a", "world"))
    said: list[Any] = [tokenizer.decode(sample.labels[start:end]) for start, end in runs(sample)]
    assert [text.replace(" ", "") for text in said] == ["helloworld</s>", "world</s>"]


def test_marks_around_some_answers_are_refused() -> None:
    template = MARKED.replace("== 'assistant'", "== 'assistant' and loop.last")
    with pytest.raises(Unmaskable) as caught:
        Masker(FAMILIES["byte level"](), template).sample(conversation("hello", "world", "a", "b"))
    assert caught.value.refusal is Refusal.ALTERED


def test_tools_are_presented_or_the_conversation_is_refused() -> None:
    tools = [{"type": "function", "function": {"name": "world"}}]
    messages = conversation("hello", "a")
    sample = masker("vicuna", tools=()).sample(messages)
    with pytest.raises(Unmaskable) as caught:
        masker("vicuna", tools=tools).sample(messages)
    assert caught.value.refusal is Refusal.TEMPLATE
    template = "{% for tool in tools %}{{ tool.function.name }}{% endfor %}" + builtin()["vicuna"].text
    presented = Masker(FAMILIES["byte level"](), template, tools=tools).sample(messages)
    assert presented.supervised == sample.supervised
    assert "world" in FAMILIES["byte level"]().decode(presented.input_ids)


# Encoder-decoder models.


def test_each_answer_is_a_pair() -> None:
    tokenizer = FAMILIES["metaspace"]()
    messages = conversation("hello", "world", "a", "hello world")
    first, second = masker("fastchat-t5", "metaspace").pairs(messages)
    assert [first.input_ids, second.input_ids] == prompts("fastchat-t5", "metaspace", messages)
    assert [tokenizer.decode(sample.labels[:-1]) for sample in (first, second)] == ["world", "hello world"]
    assert first.labels[-1] == second.labels[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", sorted(builtin()))
def test_a_pair_is_the_prompt_that_a_worker_makes_and_the_answer(name: str, family: str) -> None:
    tokenizer = FAMILIES[family]()
    messages = conversation("hello", "hello world", "world", "a")
    for sample, prompt, answer in zip(
        masker(name, family).pairs(messages), prompts(name, family, messages), ("hello world", "a"), strict=True
    ):
        assert sample.input_ids == prompt
        assert sample.labels == [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]


@pytest.mark.parametrize("name", sorted(ENDS_PROMPT))
def test_a_prompt_with_an_end_of_its_own_is_for_pairs_alone(name: str) -> None:
    """Which of these a decoder-only model could be trained on exactly is found here, when a template is added."""
    with pytest.raises(Unmaskable):
        masker(name).sample(conversation("hello", "world"))


def test_a_prompt_that_does_not_fit_is_refused() -> None:
    with pytest.raises(Unmaskable) as caught:
        masker("fastchat-t5", "metaspace", max_length=3).pairs(conversation("hello world hello", "world"))
    assert caught.value.refusal is Refusal.TOO_LONG
