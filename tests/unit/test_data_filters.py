"""The tools that compare, look up and draw, on single conversations and streams."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.config import ConfigError
from training.conversations import Conversation, Message, openai_record
from training.data.clean import Clean
from training.data.decontaminate import Decontaminate
from training.data.dedup import Dedup
from training.data.extract import FirstRound, Model
from training.data.language import Language
from training.data.quality import Quality
from training.data.redact import Redact
from training.data.runner import Run
from training.data.sampling import Sample, TrainTest
from training.data.segment import Named
from training.data.summary import distribution
from training.data.tool import Changed, Dropped, DroppedItem, Tool
from training.data.tools import TOOLS
from training.reading import Record


def talk(question: str, answer: str, id: str | None = None, **extra: str) -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer)), id, extra)


def through(tool: Tool, conversations: Sequence[Conversation]) -> tuple[list[str | None], Counter[str]]:
    """The ids of what a tool keeps, and why it drops the others."""
    dropped: list[DroppedItem] = []
    records = [Record(str(n), msgspec.json.encode(openai_record(one))) for n, one in enumerate(conversations)]
    run = Run([Named("tool", tool)], "openai", lambda bad: pytest.fail(str(bad)), dropped.append)
    kept = [msgspec.json.decode(item.line).get("id") for item in run.kept([records[:3], records[3:]], 1)]
    assert run.tallies[0].kept == len(kept)
    assert run.tallies[0].dropped == Counter(one.reason for one in dropped)
    return kept, run.tallies[0].dropped


def dropped(tool: Tool, conversation: Conversation) -> list[str]:
    return [one.reason for one in tool.step()(conversation) if isinstance(one, Dropped)]


STORY = (
    "The old lighthouse keeper climbed the stairs each evening to light the lamp, counted the ships that passed, wrote "
    "their names into a book with a blue cover, and went to bed when the last one was out of sight behind the cape."
)


def test_the_first_of_equals_stays() -> None:
    conversations = [
        talk("Tell me a story.", STORY, "a"),
        talk("Tell me another story.", "No.", "b"),
        talk("TELL me a story!", f"  {STORY}", "c"),
        talk("...", "!!!", "d"),
        talk("???", "...", "e"),
    ]
    kept, reasons = through(Dedup(near=False), conversations)
    assert kept == ["a", "b", "d", "e"]  # what has no words equals nothing
    assert reasons == {"a duplicate": 1}


def test_near_duplicates() -> None:
    near = STORY.replace("the cape", "the bay")  # 2 of 44 n-grams differ
    far = " ".join(reversed(STORY.split()))
    conversations = [talk("Tell me a story.", text, id) for id, text in (("a", STORY), ("b", near), ("c", far))]
    assert through(Dedup(near=False), conversations)[0] == ["a", "b", "c"]
    assert through(Dedup(), conversations) == (["a", "c"], {"a near-duplicate": 1})
    assert through(Dedup(threshold=0.99), conversations)[0] == ["a", "b", "c"]


def test_near_duplicates_are_found_and_others_are_not() -> None:
    """A hundred texts, each with one that lacks the last two of its words, and one that has half of its n-grams."""
    texts = [[f"w{number}x{place}" for place in range(60)] for number in range(100)]
    near = [talk(" ".join(text[:-2]), "") for text in texts]
    other = [talk(" ".join([*text[:40], *text[:20:-1]]), "") for text in texts]
    kept, reasons = through(Dedup(), [talk(" ".join(text), "", "first") for text in texts] + near + other)
    assert kept == ["first"] * 100 + [None] * 100
    assert reasons == {"a near-duplicate": 100}


@pytest.mark.parametrize("tools", [["convert"], ["dedup", "convert", "stats"]])
def test_what_has_no_end_goes_through(tools: list[str]) -> None:
    """Whatever a tool holds, it is less than all: FastChat's tools hold all."""
    taken = 0

    def records() -> Iterator[list[Record]]:
        nonlocal taken
        while True:
            taken += 1
            yield [Record("", msgspec.json.encode(openai_record(talk(f"Question {taken}", "No."))))]

    run = Run([Named(name, TOOLS[name]()) for name in tools], "openai", lambda bad: None, lambda dropped: None)
    kept = run.kept(records(), 1)
    assert len([item for item, _ in zip(kept, range(600), strict=False)]) == 600
    assert taken <= 600 + 256 * len(tools)


@pytest.mark.parametrize(
    ("by", "kept"), [("prompt", ["a", "d"]), ("first-exchange", ["a", "b", "d"]), ("id", ["a", "b", "d"])]
)
def test_what_is_compared(by: str, kept: list[str]) -> None:
    long = "What is the answer to the question that we asked before the sun went down over the hills of the west?"
    conversations = [
        talk(long, "One.", "a"),
        talk(long, "Something else, that has nothing in common with what is said above, and is as long as it.", "b"),
        Conversation((*talk(long, "One.").messages, Message("user", "Why?")), "b" if by == "id" else "c"),
        talk("Hello", "Hi", "d"),
    ]
    assert through(Dedup(by=by), conversations)[0] == kept  # pyright: ignore[reportArgumentType]


@given(st.lists(st.integers(0, 5), max_size=20))
def test_no_kind_of_conversation_gets_lost(kinds: list[int]) -> None:
    conversations = [talk(f"{STORY} {'x' * kind}", str(kind), str(kind)) for kind in kinds]
    kept, _ = through(Dedup(near=False), conversations)
    assert kept == [str(kind) for kind in dict.fromkeys(kinds)]


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Write to jane.doe+x@mail.example.co.uk.", "Write to [EMAIL]."),
        ("Call +1 650 253 0000 or +49 30 901820 today", "Call [PHONE] or [PHONE] today"),
        ("My card is 4111 1111 1111 1111.", "My card is [CARD]."),
        ("Pay to GB82 WEST 1234 5698 7654 32 please", "Pay to [IBAN] please"),
        ("The server is 8.8.8.8 or 2001:4860:4860::8888", "The server is [IP] or [IP]"),
        ("Set the key sk-abcdefghijklmnopqrstuvwx123", "Set the key [SECRET]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----", "[SECRET]"),
        # What looks like it and is none:
        ("Listen on 127.0.0.1 or 192.168.0.1, version 1.2.3.4567", None),
        ("The number 4111 1111 1111 1112 is no card", None),
        ("0000 0000 0000 0000", None),
        ("Use @decorator and a @ b, or 3.14159265358979", None),
        ("std::vector<int> at 10:30:45", None),
        ("DE00 1234 5678 9012 3456 78", None),
    ],
)
def test_redaction(text: str, redacted: str | None) -> None:
    found = list(Redact().step()(talk(text, text)))
    assert [message.content for message in _one(found).messages] == [redacted or text] * 2
    assert sum(one.count for one in found if isinstance(one, Changed)) == (2 * (redacted or "").count("["))


SECRETS = (
    '{ "to": "jane@example.com",\n  "card": 4111111111111111, "note": "\\"8.8.8.8\\"", "n": 3.5e+1, "a@example.com": 1}'
)
HIDDEN = '{ "to": "[EMAIL]",\n  "card": "[CARD]", "note": "\\"[IP]\\"", "n": 3.5e+1, "[EMAIL]": 1}'


def test_redaction_of_calls_and_their_results_leaves_json_as_it_was() -> None:
    """Also of arguments that are objects already, of reasoning, and of JSON within JSON. Names and ids stay."""
    key = "sk-abcdefghijklmnopqrstuvwx123"
    given = Conversation(
        (
            Message("user", "Pay"),
            Message("assistant", "", {"reasoning_content": "To a@example.com?", "tool_calls": [_call(key, SECRETS)]}),
            Message("tool", SECRETS, {"tool_call_id": key}),
            Message("assistant", "", {"tool_calls": [_call(key, json.loads(SECRETS))]}),
            Message("assistant", json.dumps([json.dumps({"card": 4111111111111111}), True])),
        )
    )
    found = list(Redact().step()(given))
    _, asked, result, object_asked, nested = _one(found).messages
    assert asked.extra == {"reasoning_content": "To [EMAIL]?", "tool_calls": [_call(key, HIDDEN)]}
    assert (result.content, result.extra) == (HIDDEN, {"tool_call_id": key})
    assert object_asked.extra["tool_calls"] == [_call(key, json.loads(HIDDEN))]
    assert json.loads(json.loads(nested.content)[0]) == {"card": "[CARD]"}
    assert sum(one.count for one in found if isinstance(one, Changed)) == 3 * 4 + 2


def _call(id: str, arguments: object) -> dict[str, object]:
    return {"id": id, "type": "function", "function": {"name": id, "arguments": arguments}}


CALLS = [
    Conversation(
        (
            Message("user", "How is the weather?"),
            Message("assistant", "", {"tool_calls": [_call("1", json.dumps({"place": place}))]}),
        )
    )
    for place in ("Here and there", "Paris", "Rome", "Paris")
]


def test_what_calls_and_reasoning_say_is_compared_and_searched(tmp_path: Path) -> None:
    assert through(Dedup(near=False), CALLS)[1] == {"a duplicate": 1}
    assert dropped(Quality(blocked_word=("rome",)), CALLS[2]) == ["a blocked word"]
    assert dropped(Quality(), CALLS[2]) == []
    answered = Conversation((*CALLS[0].messages, Message("tool", "0"), Message("assistant", "Dry.")))
    assert dropped(Clean(min_chars=30), answered) == []
    question = "Which of the nine stops has the most people on board?"
    (tmp_path / "b.txt").write_text(question)
    asked = Conversation((Message("user", "Go"), Message("assistant", "3", {"reasoning": f"They ask: {question}"})))
    assert dropped(Decontaminate(benchmark=(tmp_path / "b.txt",)), asked) == ["words of the benchmark"]


def test_boilerplate_beside_a_call() -> None:
    said = "As an AI language model, I cannot know that. Let me look."
    calling = Conversation((CALLS[0].messages[0], Message("assistant", said, CALLS[0].messages[1].extra)))
    assert dropped(Quality(min_answer_words=50), calling) == ["boilerplate of a language model"]


def test_phones_of_a_region_and_single_kinds() -> None:
    text = "Call (650) 253-0000 or write to a@example.com"
    assert _one(list(Redact().step()(talk(text, "x")))).messages[0].content == "Call (650) 253-0000 or write to [EMAIL]"
    tool = Redact(kind=("phone",), phone_region="US")
    assert _one(list(tool.step()(talk(text, "x")))).messages[0].content == "Call [PHONE] or write to a@example.com"


def _one(found: Sequence[object]) -> Conversation:
    (kept,) = (one for one in found if isinstance(one, Conversation))
    return kept


def test_languages() -> None:
    english = talk("How far is the moon from here?", STORY)
    german = talk(
        "Wie weit ist der Mond?", "Im Mittel sind es dreihundertvierundachtzigtausend Kilometer von der Erde."
    )
    formula = talk("2 + 2", "4")
    assert [_one(list(Language().step()(one))).extra["language"] for one in (english, german, formula)] == [
        "en",
        "de",
        "unknown",
    ]
    assert dropped(Language(keep=("en",)), german) == ["language de"]
    assert dropped(Language(keep=("en", "unknown")), formula) == []
    assert dropped(Language(skip=("de",)), german) == ["language de"]
    part = Language(split=True).part()
    assert part is not None
    assert part(_one(list(Language().step()(german)))) == "de"


def test_first_round() -> None:
    system = Message("system", "Be kind.")
    given = Conversation((system, *talk("One?", "1").messages, *talk("Two?", "2").messages))
    assert _one(list(FirstRound().step()(given))).messages == (system, *talk("One?", "1").messages)
    assert dropped(FirstRound(), Conversation((Message("user", "One?"),))) == [
        "no question with an answer at the beginning"
    ]


def test_models() -> None:
    tool = Model(name=("gpt-4*", "Vicuna-7B"))
    assert dropped(tool, talk("a", "b", model="GPT-4-0613")) == []
    assert dropped(tool, talk("a", "b", model="vicuna-7b")) == []
    assert dropped(tool, talk("a", "b", model="gpt-3.5")) == ["another model"]
    assert dropped(tool, talk("a", "b")) == ["no field 'model' that names a model"]
    nested = Conversation(talk("a", "b").messages, extra={"meta": {"model": "gpt-4"}})
    assert dropped(Model(name=("gpt-4",), field="meta.model"), nested) == []


def test_benchmarks_of_many_shapes(tmp_path: Path) -> None:
    question = "A train leaves at noon with forty people on board; how many get off at the third of its nine stops?"
    chat = {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "9"}]}
    files = {
        "turns.jsonl": {"question_id": 1, "turns": [question, "And why is that so?"], "category": "math"},
        "question.json": [{"question": question, "answer": "9"}],
        "chats.jsonl": chat,
        "plain.txt": question,
        "own.jsonl": {"riddle": question},
    }
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value))
        tool = Decontaminate(benchmark=(tmp_path / name,), field=("riddle",) if name == "own.jsonl" else ())
        asked = talk(f"Please: {question.upper()}", "Nine.")
        assert dropped(tool, asked) == ["words of the benchmark"], name
        assert dropped(tool, talk("Please help", f"They asked: {question}")) == ["words of the benchmark"], name
        assert dropped(tool, talk("A train leaves at noon with forty people", "So?")) == [], name
    short = Decontaminate(benchmark=(tmp_path / "turns.jsonl",))
    assert dropped(short, talk("OK. And why is that so? Tell me", "Because.")) == ["words of the benchmark"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"riddle": "what is it that has no name and no place"}', r"b.jsonl:1: no question in turns, question"),
        ("{", r"b.jsonl:1: broken JSON"),
        ('{"question": "Hello there"}', "no question of 5 words or more"),
    ],
)
def test_benchmarks_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "b.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=message):
        Decontaminate(benchmark=(tmp_path / "b.jsonl",)).check()


MANY = [talk(f"Question {number}?", "An answer.", str(number)) for number in range(400)]


def test_samples() -> None:
    kept, reasons = through(Sample(count=30), MANY)
    assert len(kept) == 30
    assert reasons == {"not in the sample": 370}
    assert kept == sorted(kept, key=lambda id: int(id or 0))
    assert kept == through(Sample(count=30), MANY)[0]
    assert kept != through(Sample(count=30, seed=1), MANY)[0]
    assert len(through(Sample(count=1000), MANY)[0]) == 400
    share, _ = through(Sample(share=0.25), MANY)
    assert 70 < len(share) < 130
    long = talk("x" * 100, "y", "long")
    assert through(Sample(count=5, max_chars=50), [long, *MANY[:3]])[1] == {"more than 50 characters": 1}


def test_train_and_test_share_no_question_and_no_conversation() -> None:
    part = TrainTest(ratio=0.8).part()
    assert part is not None
    sides = Counter(part(one) for one in MANY)
    assert 50 < sides["test"] < 110
    assert part(talk("Same question", "A")) == part(talk("Same question", "B"))
    pieces = [talk(f"Turn {number}", "A", f"x-{number}", part_of="x") for number in range(30)]
    assert len({part(one) for one in pieces}) == 1
    other = TrainTest(ratio=0.8, seed=1).part()
    assert other is not None
    assert [other(one) for one in MANY] != [part(one) for one in MANY]


@pytest.mark.parametrize(
    ("tool", "options", "message"),
    [
        (Language, {"keep": ("english",)}, "'english' must be one of"),
        (Language, {"keep": ("en",), "skip": ("en",)}, "'en' is both kept and skipped"),
        (Sample, {}, "either --count or --share is required"),
        (Model, {}, "--name is required"),
        (Decontaminate, {}, "--benchmark is required"),
        (Redact, {"kind": ("names",)}, "--kind must be one of"),
        (Redact, {"phone_region": "Germany"}, "--phone-region must be a country"),
    ],
)
def test_options_that_cannot_be(tool: type[Tool], options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tool(**options)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60))
def test_distributions(values: list[int]) -> None:
    found = distribution(Counter(values))
    ordered = sorted(values)
    assert (found["total"], found["most"]) == (sum(values), ordered[-1])
    assert found["median"] == ordered[(len(values) - 1) // 2]
    assert found["99 %"] >= found["90 %"] >= found["median"]
