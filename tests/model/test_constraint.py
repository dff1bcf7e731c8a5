"""Answers under a grammar: always of it, exact after a resume, and nobody else's business."""

from __future__ import annotations

import itertools
import json
import random
import re
import string
import subprocess
import sys
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mesh.engine.base import Constraint, FinishReason, Output, Progress
from mesh.engine.constraint import MAX_CHARACTERS, MAX_REGEX_CHARACTERS, Grammars
from mesh.engine.masks import Masks
from mesh.engine.text import Tokenizer
from mesh.errors import ErrorKind, MeshError
from tests.model.driver import Answer, Driver, prompt_of
from tests.model.tiny import EOS, VOCAB, generate, make_tokenizer
from tests.unit.tokenizers import byte_fallback, byte_level, metaspace

Saved = tuple[str, PreTrainedModel]
SEEDS: list[dict[str, Any]] = [{}, *({"temperature": 1.0, "seed": seed} for seed in range(4))]

SCHEMA = Constraint(
    "json_schema",
    json.dumps(
        {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 12},
                "age": {"type": "integer", "minimum": 0, "maximum": 150},
                "tags": {"type": "array", "items": {"enum": ["a", "é", 'x"y']}, "maxItems": 3},
            },
            "required": ["name", "age", "tags"],
            "additionalProperties": False,
        }
    ),
)
REGEX = Constraint("regex", r"[a-c]{2,5}/\d{3}(\n|é)?")
GRAMMAR = Constraint("grammar", 'start: sum\nsum: NUMBER ("+" NUMBER)*\nNUMBER: /[1-9][0-9]{0,2}/')
CHOICE = Constraint("choice", ("yes", "yes, indeed", 'a "quoted"\nline \\ é 😀', "</s>"))


def token(char: str) -> int:
    """The id of a character of the byte-level alphabet."""
    return make_tokenizer().get_vocab()[char]


def is_of_schema(text: str) -> bool:
    value = json.loads(text)
    return (
        list(value) == ["name", "age", "tags"]
        and len(value["name"]) <= 12
        and 0 <= value["age"] <= 150
        and len(value["tags"]) <= 3
        and set(value["tags"]) <= {"a", "é", 'x"y'}
    )


KINDS: dict[str, tuple[Constraint, Callable[[str], object]]] = {
    "json_schema": (SCHEMA, is_of_schema),
    "regex": (REGEX, re.compile(r"[a-c]{2,5}/\d{3}(\n|é)?", re.ASCII).fullmatch),
    "grammar": (GRAMMAR, re.compile(r"[1-9][0-9]{0,2}(\+[1-9][0-9]{0,2})*").fullmatch),
    "choice": (CHOICE, CHOICE.value.__contains__),
}


def seen(answer: Answer) -> Any:
    """All that a client can see."""
    assert answer.failed is None, answer.failed
    ends = {choice: (end.reason, end.stop_token_id) for choice, end in answer.ends.items()}
    return answer.tokens, answer.text, ends


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_gives_what_it_allows(llama: Saved, kind: str) -> None:
    constraint, allows = KINDS[kind]
    # The grammar of sums has no longest text: a bias towards the end gives it one. New lines bring long indentations.
    bias = {EOS: 20.0} if kind == "grammar" else {token("Ċ"): -9.0, token("č"): -9.0}
    async with Driver(llama[0]) as driver:
        keys = [
            await driver.submit(
                prompt_of(9, start), tokens=240, constraint=constraint, sampling={"logit_bias": bias, **seed}
            )
            for start, seed in enumerate(SEEDS)
        ]
        answers = [await driver.answer(key) for key in keys]
        assert driver.stat("kv_pages_used") == 0
    for answer in answers:
        assert answer.failed is None
        assert allows(answer.text[0]), answer.text[0]
        assert (answer.ends[0].reason, answer.ends[0].stop_token_id) == (FinishReason.STOP, EOS)
    assert len({answer.text[0] for answer in answers}) > 1


async def test_a_json_object_is_one_as_far_as_it_goes(llama: Saved) -> None:
    closing = {token(char): 8.0 for char in '"}]:'}
    async with Driver(llama[0]) as driver:
        for seed in SEEDS:
            sampling = {"logit_bias": closing, **seed}
            answer = await driver.ask(prompt_of(5), tokens=200, constraint=Constraint("json_object"), sampling=sampling)
            assert answer.text[0].startswith("{")
            if answer.ends[0].reason is FinishReason.STOP:
                assert isinstance(json.loads(answer.text[0]), dict)


async def test_no_endless_whitespace(llama: Saved) -> None:
    blanks = {token(char): 100.0 for char in ("Ġ", "Ċ", "ĉ", "č")}
    sampling = {"logit_bias": blanks, "temperature": 1.0}
    async with Driver(llama[0]) as driver:
        schema = Constraint("json_schema", '{"type": "array", "items": {"type": "null"}, "minItems": 1, "maxItems": 1}')
        answer = await driver.ask(prompt_of(5), tokens=200, constraint=schema, sampling=sampling)
    assert json.loads(answer.text[0]) == [None]
    assert re.search(r"\s", answer.text[0])


async def test_the_grammar_says_when_it_is_over(llama: Saved) -> None:
    """Neither min_tokens nor ignore_eos, which the driver sets, can ask for more than there is."""
    async with Driver(llama[0]) as driver:
        answer = await driver.ask(
            prompt_of(5), tokens=50, constraint=Constraint("choice", ("ab",)), sampling={"min_tokens": 20}
        )
        assert (answer.text[0], len(answer.ids), answer.ends[0].reason) == ("ab", 3, FinishReason.STOP)
        short = await driver.ask(prompt_of(5), tokens=2, constraint=Constraint("choice", ("abcde",)))
        assert (short.text[0], short.ends[0].reason) == ("ab", FinishReason.LENGTH)


async def test_options_work_on_what_is_allowed(llama: Saved) -> None:
    """Penalties, bias and filters come after the mask, log probabilities before."""
    a, b = token("a"), token("b")
    constraint = Constraint("regex", "[ab]{6}")
    async with Driver(llama[0]) as driver:
        biased = await driver.ask(prompt_of(5), constraint=constraint, sampling={"logit_bias": {b: 100.0, EOS: 100.0}})
        assert biased.text[0] == "bbbbbb"
        one = await driver.ask(
            prompt_of(5), constraint=constraint, sampling={"temperature": 1.0, "top_k": 1, "frequency_penalty": 2.0}
        )
        assert re.fullmatch("[ab]{6}", one.text[0])
        free = await driver.ask(prompt_of(5), tokens=1, output=Output(logprobs=3))
        bound = await driver.ask(prompt_of(5), constraint=constraint, output=Output(logprobs=3))
    assert [top.token_id for top in bound.logprobs[0].top] == [top.token_id for top in free.logprobs[0].top]
    assert bound.logprobs[0].token_id in (a, b)
    assert bound.logprobs[0].logprob < free.logprobs[0].logprob


async def test_choices_go_their_own_ways(llama: Saved) -> None:
    sampling = {"n": 4, "temperature": 1.0, "seed": 3}
    async with Driver(llama[0]) as driver:
        answer = await driver.ask(prompt_of(30), tokens=200, constraint=REGEX, sampling=sampling)
    assert all(KINDS["regex"][1](text) for text in answer.text.values())
    assert len(set(answer.text.values())) > 1


@pytest.mark.parametrize("constraint", [SCHEMA, REGEX], ids=["json_schema", "regex"])
async def test_resumed_at_every_token(llama: Saved, constraint: Constraint) -> None:
    fields: dict[str, Any] = {
        "tokens": 200,
        "constraint": constraint,
        "sampling": {"n": 2, "temperature": 1.0, "seed": 8, "top_p": 0.9},
    }
    async with Driver(llama[0], max_rows=16) as driver:
        whole = await driver.ask(prompt_of(20), **fields)
        places = range(max(map(len, whole.tokens.values())) + 1)
        cut = [{choice: ids[:place] for choice, ids in whole.tokens.items()} for place in places]
        keys = [await driver.submit(prompt_of(20), resume=parts, **fields) for parts in cut]
        for parts, key in zip(cut, keys, strict=True):
            answer = await driver.answer(key)
            assert answer.failed is None
            together = {choice: parts[choice] + answer.tokens.get(choice, []) for choice in whole.tokens}
            assert (together, set(answer.ends)) == (whole.tokens, {0, 1})
            for choice, text in answer.text.items():
                assert whole.text[choice].endswith(text)
        half = await driver.ask(prompt_of(20), resume={0: Progress(tuple(whole.tokens[0]), finished=True)}, **fields)
        assert (set(half.ends), half.tokens) == ({1}, {1: whole.tokens[1]})


async def test_bound_and_free_rows_do_not_see_each_other(llama: Saved) -> None:
    path, model = llama
    bound: dict[str, Any] = {"tokens": 60, "constraint": SCHEMA, "sampling": {"temperature": 1.0, "seed": 5}}
    async with Driver(path, max_rows=8) as driver:
        alone = seen(await driver.ask(prompt_of(12), **bound))
        keys: list[tuple[int, int | None]] = []
        for index in range(6):
            keys.append((await driver.submit(prompt_of(12), **bound), None))
            keys.append((await driver.submit(prompt_of(7 + index, index), tokens=40), index))
        for key, index in keys:
            answer = await driver.answer(key)
            if index is None:
                assert seen(answer) == alone
            else:
                assert answer.ids == generate(model, prompt_of(7 + index, index), 40)


async def test_preemption_changes_nothing(llama: Saved) -> None:
    bound: dict[str, Any] = {"tokens": 60, "constraint": SCHEMA, "sampling": {"temperature": 1.0, "seed": 5}}
    async with Driver(llama[0]) as driver:
        expected = [seen(await driver.ask(prompt_of(40, start), **bound)) for start in range(4)]
    async with Driver(llama[0], kv_tokens=160) as driver:
        keys = [await driver.submit(prompt_of(40, start), **bound) for start in range(4)]
        assert [seen(await driver.answer(key)) for key in keys] == expected
        assert driver.stat("preemptions") > 0


async def test_a_grammar_that_breaks_down_ends_its_row_alone(llama: Saved) -> None:
    """So ambiguous that its parser reaches its limit after some tokens."""
    path, model = llama
    ambiguous = Constraint("grammar", 'start: s\ns: s s | s s s | s s s s | s s s s s | "x"')
    async with Driver(path) as driver:
        other = await driver.submit(prompt_of(11), tokens=150)
        answer = await driver.ask(
            prompt_of(5), tokens=200, constraint=ambiguous, sampling={"logit_bias": {EOS: -100.0}}
        )
        assert answer.failed is not None
        assert (answer.failed.error.kind, answer.failed.error.param) == (ErrorKind.INVALID_REQUEST, "grammar")
        assert f"too complex to follow after {len(answer.ids)} tokens" in answer.failed.error.message
        assert "max is 500" in answer.failed.error.message
        assert set(answer.text[0]) == {"x"}
        assert (await driver.answer(other)).ids == generate(model, prompt_of(11), 150)
        await driver.until_idle()


BAD = [
    (Constraint("json_schema", '{"type": "foo"}'), "Invalid type: foo"),
    (Constraint("json_schema", '{"$ref": "#/nope"}'), "'/nope' does not exist"),
    (Constraint("json_schema", '{"$ref": "http://localhost/a"}'), "does not fetch"),
    (Constraint("json_schema", "{"), "EOF"),
    (Constraint("json_schema", "5"), "Expecting object schema"),
    (Constraint("regex", "a("), "unclosed group"),
    (Constraint("regex", "(?=a)b"), "look-ahead"),
    (Constraint("grammar", "start: foo"), 'unknown name: "foo"'),
    (Constraint("grammar", 'start: start "a"'), "no text of this model's tokens"),
    (Constraint("choice", ("a",) * 5000), "at most 4096 texts, not 5000"),
    (Constraint("regex", "a" * (MAX_REGEX_CHARACTERS + 1)), f"at most {MAX_REGEX_CHARACTERS} characters"),
    (Constraint("grammar", "a" * (MAX_CHARACTERS + 1)), f"at most {MAX_CHARACTERS} characters"),
]


@pytest.mark.parametrize(("constraint", "why"), BAD, ids=[f"{bad[0].kind}-{index}" for index, bad in enumerate(BAD)])
def test_what_cannot_be_compiled_says_why(constraint: Constraint, why: str) -> None:
    with pytest.raises(MeshError) as caught:
        grammars().compile(constraint)
    error = caught.value
    assert (error.kind, error.param) == (ErrorKind.INVALID_REQUEST, constraint.kind)
    assert why in error.message
    assert "\n" not in error.message


def grammars(eos: tuple[int, ...] = (EOS,), vocab_size: int = VOCAB) -> Grammars:
    return Grammars(Tokenizer(make_tokenizer(), eos), vocab_size, eos)


def test_a_matcher_that_broke_down_does_not_touch_others() -> None:
    """Not of the same grammar either: one that needs a state of the lexer for each of the last 19 letters."""
    known, constraint = grammars(), Constraint("regex", "[ab]*a[ab]{18}")
    first, second = known.compile(constraint), known.compile(constraint)
    letters = [token("a"), token("b")]
    draw = random.Random(1)
    while first.accept(draw.choice(letters)):
        pass
    assert "too complex" in first.error.message
    for matcher in (second, known.compile(constraint)):
        assert matcher.replay(letters * 20)


REFERENCES = json.dumps(
    {"$ref": "#/$defs/0", "$defs": {str(at): {"$ref": f"#/$defs/{at + 1}"} if at < 3000 else {} for at in range(3001)}}
)
NAMES = ["".join(letters) for letters in itertools.islice(itertools.product(string.ascii_lowercase, repeat=3), 16_000)]
RULES = "".join(f"{name}:{after}\n" for name, after in itertools.pairwise(["start", *NAMES])) + f'{NAMES[-1]}:"x"'
TERMINALS = re.sub(r"\b[a-z]{3}\b", lambda name: name[0].upper(), RULES)


DEEP = {
    "references": (Constraint("json_schema", REFERENCES), "1"),
    "rules": (Constraint("grammar", RULES), "x"),
    "terminals": (Constraint("grammar", TERMINALS), "x"),
}


def test_deep_grammars_do_not_end_the_process() -> None:
    """As deep as MAX_CHARACTERS lets them be; elsewhere, as this process would not outlive a failure."""
    assert all(len(constraint.value) <= MAX_CHARACTERS for constraint, _ in DEEP.values())
    code = (
        "from tests.model.test_constraint import DEEP, grammars, token\n"
        "for name, (constraint, letter) in DEEP.items():\n"
        "    print(name, grammars().compile(constraint).accept(token(letter)), flush=True)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "".join(f"{name} True\n" for name in DEEP)), done.stderr[-2000:]


def test_every_end_of_turn_is_one() -> None:
    for eos in ((EOS,), (EOS, 258)):
        matcher = grammars(eos).compile(Constraint("choice", ("a",)))
        assert matcher.accept(token("a"))
        assert matcher.accept(eos[-1])


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
@pytest.mark.parametrize("text", ["hello world", 'a"b\\', "héé 😀"])
def test_both_families_of_tokenizers(make: Callable[[], PreTrainedTokenizerFast], text: str) -> None:
    """Whichever of the allowed tokens is taken, the text is the one that was asked for."""
    hf = make()
    tokenizer, eos, width = Tokenizer(hf), hf.get_vocab()["</s>"], len(hf) - 1
    matcher = Grammars(tokenizer, width, [eos]).compile(Constraint("choice", (text,)))
    masks, ids = Masks(width, torch.device("cpu")), list[int]()
    while True:
        forbidden = masks.forbidden([matcher])
        assert forbidden.shape == (1, width)
        allowed = [token_id for token_id, no in enumerate(cast("list[bool]", forbidden[0].tolist())) if not no]
        assert matcher.accept(allowed[-1])
        if allowed == [eos]:
            break
        ids.append(allowed[-1])
    assert tokenizer.decode(ids) == text


def test_a_tokenizer_without_bytes_has_no_grammars() -> None:
    assert not Tokenizer(metaspace()).has_bytes
