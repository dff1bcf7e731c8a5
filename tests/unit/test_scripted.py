"""The scripted engine: everything but the model must be as real as in the default engine."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mesh.engine.base import (
    CallRule,
    Chat,
    ChoiceFinished,
    Constraint,
    Delta,
    Event,
    Failed,
    Finished,
    FinishReason,
    Image,
    Message,
    Output,
    Progress,
    Prompt,
    Request,
    Sampling,
    Started,
    Step,
    Text,
    Tokens,
    Tool,
)
from mesh.engine.script import END, VOCAB_SIZE
from mesh.engine.scripted import ScriptedEngine, ScriptedOptions
from mesh.errors import ErrorKind, MeshError

TOOL = Tool("look", "", {"type": "object"})
SAY = Chat((Message("user", ("Say something",)),))


class Stage:
    """An engine and all that it has reported."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self.engine = engine
        self.steps: list[Step] = []
        self._changed = asyncio.Condition()
        self._keys = 0
        self._news = asyncio.Event()

    def listen(self, step: Step) -> None:
        self.steps.append(step)
        self._news.set()

    async def until(self, check: Callable[[], object], within: float = 10.0) -> None:
        """Look after each step until `check` holds."""
        async with asyncio.timeout(within):
            while not check():
                self._news.clear()
                await self._news.wait()

    def request(self, prompt: Prompt = SAY, *, more: dict[str, Any] | None = None, **sampling: Any) -> Request:
        self._keys += 1
        chosen: dict[str, Any] = {"seed": 1, "temperature": 0.0}
        chosen.update(sampling)
        options = Sampling(**chosen)
        return Request(self._keys, f"r{self._keys}", "scripted", prompt, options, **(more or {}))

    async def submit(self, *arguments: Any, **options: Any) -> int:
        request = self.request(*arguments, **options)
        await self.engine.submit(request)
        return request.key

    async def answer(self, request: Request) -> list[Event]:
        await self.engine.submit(request)
        await self.until(lambda: self.over(request.key))
        return self.events(request.key)

    def events(self, key: int) -> list[Event]:
        return [event for step in self.steps for event in step.events if event.key == key]

    def over(self, key: int) -> bool:
        return any(isinstance(event, Finished | Failed) for event in self.events(key))

    def tokens(self, key: int) -> int:
        return len(token_ids(self.events(key), None))


@asynccontextmanager
async def stage(**options: Any) -> AsyncGenerator[Stage]:
    made = Stage(ScriptedEngine(ScriptedOptions(**options)))
    await made.engine.start(made.listen)
    try:
        yield made
    finally:
        await made.engine.stop()


def token_ids(events: list[Event], choice: int | None = 0) -> list[int]:
    deltas = [event for event in events if isinstance(event, Delta) and choice in (None, event.choice)]
    return [token_id for delta in deltas for token_id in delta.token_ids]


def text(events: list[Event], choice: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta) and event.choice == choice)


async def refused(attempt: Awaitable[object]) -> MeshError:
    with pytest.raises(MeshError) as caught:
        await attempt
    return caught.value


async def test_an_answer_is_so_many_words_and_an_end() -> None:
    async with stage(tokens=12) as on:
        events = await on.answer(on.request())
        assert isinstance(events[0], Started)
        deltas = [event for event in events if isinstance(event, Delta)]
        assert [bool(delta.text) for delta in deltas] == [True] * 12 + [False]
        assert len(text(events).split()) == 12
        assert not text(events).startswith(" ")
        assert events[-2] == ChoiceFinished(1, 0, FinishReason.STOP, stop_token_id=END, tokens=13)
        finished = events[-1]
        assert isinstance(finished, Finished)
        assert (finished.prompt_tokens, finished.completion_tokens) == (events[0].prompt_tokens, 13)


async def test_the_words_depend_on_the_prompt_and_when_drawn_on_seed_and_choice() -> None:
    async with stage(tokens=8) as on:

        async def said(prompt: Prompt = SAY, **sampling: Any) -> tuple[str, ...]:
            events = await on.answer(on.request(prompt, **sampling))
            return tuple(text(events, choice) for choice in range(sampling.get("n", 1)))

        assert await said() == await said()
        assert await said(seed=1) == await said(seed=2)
        assert await said() != await said(Text("Say something"))
        assert await said(temperature=1) == await said(temperature=1)
        assert await said(temperature=1, seed=1) != await said(temperature=1, seed=2)
        greedy, drawn = await said(n=2), await said(temperature=1, n=2)
        assert greedy[0] == greedy[1]
        assert drawn[0] != drawn[1]
        assert drawn[0] == (await said(temperature=1))[0]


async def test_a_resume_at_every_token_continues_exactly() -> None:
    async with stage(tokens=10) as on:
        request = on.request(temperature=1, n=2, stop=("zzz", " a"))
        whole = await on.answer(request)
        for k in range(12):
            resume = {choice: Progress(tuple(token_ids(whole, choice)[:k])) for choice in (0, 1)}
            rest = await on.answer(replace(on.request(), sampling=request.sampling, resume=resume))
            for choice in (0, 1):
                ids = token_ids(whole, choice)
                assert token_ids(rest, choice) == ids[k:]
                assert text(whole, choice).endswith(text(rest, choice))
            assert rest[-1] == replace(whole[-1], key=rest[-1].key, **{name: getattr(rest[-1], name) for name in TIMES})


TIMES = ("queue_time", "prefill_time", "decode_time")


async def test_echo_and_a_file_are_said_word_for_word(tmp_path: Path) -> None:
    file = tmp_path / "said.txt"
    file.write_text('The sea was "very" blue. 日本 🙂\n')
    async with stage(text=str(file)) as on:
        assert text(await on.answer(on.request())) == file.read_text()
    async with stage(text="echo") as on:
        assert text(await on.answer(on.request())) == "Say something"
        assert text(await on.answer(on.request(Text("a é")))) == "a é"


async def test_a_file_of_several_answers_gives_each_prompt_its_own(tmp_path: Path) -> None:
    file = tmp_path / "said.txt"
    file.write_text("Yes.\n%\nNo, 100%\nsure.\n%\nPerhaps.")
    async with stage(text=str(file)) as on:
        asked = [f"Question {n}" for n in range(24)]
        said = [text(await on.answer(on.request(Text(prompt)))) for prompt in asked]
        again = [text(await on.answer(on.request(Text(prompt)))) for prompt in asked]
    assert set(said) == {"Yes.\n", "No, 100%\nsure.\n", "Perhaps."}
    assert again == said


async def test_a_table_says_what_answers_what_and_the_rest_is_said_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    path.write_text('{"weather": "It rains.", "rain": "Never."}', encoding="utf-8")
    async with stage(text=str(path)) as on:
        for asked, said in (("weather, rain?", "It rains."), ("rain?", "Never."), ("snow?", "snow?")):
            assert text(await on.answer(on.request(Chat((Message("user", (asked,)),))))) == said
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(MeshError, match=r"JSON object of texts.*answers\.json"):
        ScriptedEngine(ScriptedOptions(text=str(path)))


async def test_images_are_part_of_the_prompt_where_they_are_taken() -> None:
    def look(data: bytes) -> Chat:
        return Chat((Message("user", (Image(data, "image/png"), "What is it?")),))

    async with stage(vision=True) as on:
        assert "vision" in on.engine.models[0].capabilities
        answers = [text(await on.answer(on.request(look(data)))) for data in (b"one", b"two", b"one")]
    assert answers[0] == answers[2] != answers[1]
    async with stage() as on:
        error = await refused(on.submit(look(b"one")))
        assert (error.kind, error.param) == (ErrorKind.UNSUPPORTED, "messages")


async def test_options_that_end_an_answer() -> None:
    async with stage(text="echo") as on:
        prompt = Text("one two three four")

        async def end(**sampling: Any) -> tuple[str, ChoiceFinished]:
            events = await on.answer(on.request(prompt, **sampling))
            finished = next(event for event in events if isinstance(event, ChoiceFinished))
            return text(events), finished

        assert (await end(max_tokens=3))[0] == "one"
        assert (await end(max_tokens=3))[1].reason is FinishReason.LENGTH
        said, finished = await end(stop=("three",))
        assert (said, finished.stop_string) == ("one two ", "three")
        ignored, finished = await end(ignore_eos=True, max_tokens=9)
        assert (ignored, finished.reason) == ("one two three fouron", FinishReason.LENGTH)
        longer, finished = await end(min_tokens=9)
        assert (longer, finished.stop_token_id) == ("one two three fourone", END)


async def test_log_probabilities_are_sane_and_always_the_same() -> None:
    async with stage(tokens=5) as on:
        request = on.request(more={"output": Output(logprobs=4)})
        first = await on.answer(request)
        reports = [report for event in first if isinstance(event, Delta) for report in event.logprobs or ()]
        assert len(reports) == 6
        for report in reports:
            assert report.top[0].token_id == report.token_id
            values = [top.logprob for top in report.top]
            assert values == sorted(values, reverse=True)
            assert sum(2.72**value for value in values) < 1
        again = await on.answer(on.request(more={"output": Output(logprobs=4)}))
        assert [e.logprobs for e in again if isinstance(e, Delta)] == [
            e.logprobs for e in first if isinstance(e, Delta)
        ]


async def test_all_rows_share_each_step() -> None:
    async with stage(tokens=20) as on:
        keys = [await on.submit() for _ in range(30)]
        await on.until(lambda: all(map(on.over, keys)))
        assert len(on.steps) == 21
        assert [step.number for step in on.steps] == list(range(1, 22))
        assert {len([e for e in step.events if isinstance(e, Delta)]) for step in on.steps} == {30}
        assert on.engine.stats()["steps"] == 21
        assert on.engine.stats()["output_tokens"] == 30 * 21


async def test_rows_beyond_the_slots_wait_their_turn_the_urgent_first() -> None:
    async with stage(tokens=10, slots=2) as on:
        low = [await on.submit(more={"priority": 5}) for _ in range(2)]
        high = await on.submit(n=2, more={"priority": -1})
        assert on.engine.load().waiting == 4
        await on.until(lambda: on.tokens(high) == 2)
        load = on.steps[-1].load
        assert (load.running, load.waiting, load.slots) == (2, 2, 2)
        assert not on.events(low[0])
        await on.until(lambda: on.over(high))
        await on.until(lambda: all(map(on.over, low)))
        assert max(step.load.running for step in on.steps) <= 2


async def test_without_credit_a_row_pauses_and_holds_up_nobody() -> None:
    async with stage(tokens=30, slots=1) as on:
        slow = await on.submit(more={"credit": 3})
        quick = await on.submit()
        await on.until(lambda: on.over(quick))
        assert on.tokens(slow) == 3
        load = on.engine.load()
        assert (load.running, load.waiting, load.paused) == (0, 0, 1)
        on.engine.grant(slow, 2)
        await on.until(lambda: on.tokens(slow) == 5)
        on.engine.grant(slow, 100)
        await on.until(lambda: on.over(slow))
        undisturbed = await on.answer(on.request())
        assert text(on.events(slow)) == text(undisturbed)


async def test_choices_without_credit_make_room_for_others() -> None:
    async with stage(tokens=5, slots=1) as on:
        await on.submit(n=3, more={"credit": 1})
        quick = await on.submit()
        await on.until(lambda: on.over(quick))
        assert on.engine.load().paused == 3


async def test_credit_is_shared_by_the_choices_of_a_request() -> None:
    async with stage(tokens=30) as on:
        key = await on.submit(n=3, more={"credit": 7})
        await on.until(lambda: on.engine.load().paused == 3)
        assert on.tokens(key) == 7
        on.engine.grant(key, 1000)
        await on.until(lambda: on.over(key))
        assert on.tokens(key) == 93


async def test_a_cancelled_request_leaves_at_once_and_says_no_more() -> None:
    async with stage(tokens=1000, slots=2) as on:
        running, paused = await on.submit(), await on.submit(more={"credit": 2})
        waiting = await on.submit(n=2)
        await on.until(lambda: on.engine.load().paused == 1)
        for key in (running, paused, waiting):
            on.engine.cancel(key)
        on.engine.cancel(12345)
        load = on.engine.load()
        assert (load.running, load.waiting, load.paused, load.running_tokens, load.pending_tokens) == (0,) * 5
        before = len(on.steps)
        await on.answer(on.request(max_tokens=3))
        assert not [e for step in on.steps[before:] for e in step.events if e.key in (running, paused, waiting)]


async def test_load_counts_tokens() -> None:
    async with stage(tokens=1000, slots=2, context_length=100) as on:
        prompt = Tokens(tuple(range(30)))
        for _ in range(3):
            await on.submit(prompt)
        assert on.engine.load().pending_tokens == 90
        await on.until(lambda: len(on.steps) == 5)
        load = on.steps[-1].load
        assert (load.running_tokens, load.pending_tokens, load.steps) == (70, 30, 5)
        assert load.kv_used == pytest.approx(0.35)


async def test_speed_is_as_told() -> None:
    async with stage(tokens=10, step_interval=0.02, first_token_delay=0.1, jitter=0.1) as on:
        begun = time.monotonic()
        events = await on.answer(on.request())
        took = time.monotonic() - begun
        assert took >= 0.1 + 10 * 0.018
        finished = events[-1]
        assert isinstance(finished, Finished)
        assert finished.prefill_time >= 0.1
        assert finished.decode_time >= 10 * 0.018
        assert finished.queue_time < 0.1


async def test_a_deadline_ends_requests_that_run_wait_or_stall() -> None:
    async with stage(tokens=10**6, slots=1, stall_after=3) as on:
        soon = time.monotonic() + 0.05
        keys = [await on.submit(more={"deadline": soon}) for _ in range(2)]
        await on.until(lambda: all(map(on.over, keys)))
        for key in keys:
            last = on.events(key)[-1]
            assert isinstance(last, Failed)
            assert last.error.kind is ErrorKind.DEADLINE_EXCEEDED
        assert on.engine.load().running == 0


async def test_the_fault_fail_after_breaks_each_request_alone() -> None:
    async with stage(tokens=10, fail_after=4) as on:
        keys = [await on.submit(n=2), await on.submit(max_tokens=4)]
        await on.until(lambda: all(map(on.over, keys)))
        broken = on.events(keys[0])
        assert isinstance(broken[-1], Failed)
        assert broken[-1].error.kind is ErrorKind.ENGINE_FAILED
        assert (len(token_ids(broken, 0)), len(token_ids(broken, 1))) == (4, 4)
        assert isinstance(on.events(keys[1])[-1], Finished)


async def test_the_fault_stall_after_stops_a_row_and_nobody_else() -> None:
    async with stage(tokens=10, stall_after=4) as on:
        stalled, short = await on.submit(), await on.submit(max_tokens=3)
        await on.until(lambda: on.over(short) and on.tokens(stalled) == 4)
        later = await on.submit(max_tokens=2)
        await on.until(lambda: on.over(later))
        assert on.tokens(stalled) == 4
        assert on.engine.load().running == 1


async def test_the_fault_refuse() -> None:
    async with stage(refuse=True) as on:
        error = await refused(on.submit())
        assert (error.kind, error.retry_after) == (ErrorKind.OVERLOADED, 1.0)


def test_the_fault_crash_after_ends_the_process() -> None:
    program = (
        "import asyncio\n"
        "from mesh.engine.base import Request, Sampling, Text\n"
        "from mesh.engine.scripted import ScriptedEngine, ScriptedOptions\n"
        "async def main():\n"
        "    engine = ScriptedEngine(ScriptedOptions(crash_after=3))\n"
        "    await engine.start(lambda step: print(step.number, flush=True))\n"
        "    await engine.submit(Request(1, 'r', '', Text('a'), Sampling(seed=1)))\n"
        "    await asyncio.sleep(30)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout.split(), done.stderr) == (70, ["1", "2", "3"], "")


async def test_a_full_queue_refuses() -> None:
    async with stage(slots=1, max_waiting=2) as on:
        await on.submit(n=2)
        error = await refused(on.submit())
        assert error.kind is ErrorKind.OVERLOADED
        assert "takes at most 2" in error.message


IMAGE_CHAT = Chat((Message("narrator", ("x",)),))


@pytest.mark.parametrize(
    ("prompt", "sampling", "more", "kind", "param"),
    [
        (Tokens(()), {}, {}, ErrorKind.INVALID_REQUEST, "prompt"),
        (Tokens((VOCAB_SIZE,)), {}, {}, ErrorKind.INVALID_REQUEST, "prompt"),
        (Text("x\udfff"), {}, {}, ErrorKind.INVALID_REQUEST, "prompt"),
        (Text("x" * 5000), {}, {}, ErrorKind.CONTEXT_LENGTH_EXCEEDED, "prompt"),
        (Chat(()), {}, {}, ErrorKind.INVALID_REQUEST, "messages"),
        (IMAGE_CHAT, {}, {}, ErrorKind.INVALID_REQUEST, "messages"),
        (replace(SAY, chat_template="x"), {}, {}, ErrorKind.UNSUPPORTED, "chat_template"),
        (replace(SAY, tools=(TOOL,), call_rule=CallRule(required=True)), {}, {}, ErrorKind.UNSUPPORTED, "tool_choice"),
        (
            SAY,
            {},
            {"constraint": Constraint("json_schema", '{"type": "number"')},
            ErrorKind.INVALID_REQUEST,
            "json_schema",
        ),
        (SAY, {"stop": ("x",) * 10_000}, {}, ErrorKind.INVALID_REQUEST, "stop"),
        (SAY, {"stop_token_ids": (VOCAB_SIZE,)}, {}, ErrorKind.INVALID_REQUEST, "stop_token_ids"),
        (SAY, {"best_of": 4}, {}, ErrorKind.UNSUPPORTED, "best_of"),
        (SAY, {}, {"adapter": "a"}, ErrorKind.UNSUPPORTED, "adapter"),
        (SAY, {}, {"output": Output(prompt_logprobs=1)}, ErrorKind.UNSUPPORTED, "prompt_logprobs"),
        (SAY, {}, {"resume": {1: Progress((1,))}}, ErrorKind.INVALID_REQUEST, "resume"),
        (SAY, {}, {"resume": {0: Progress((VOCAB_SIZE,))}}, ErrorKind.INVALID_REQUEST, "resume"),
        (SAY, {}, {"resume": {0: Progress((END, 1))}}, ErrorKind.INVALID_REQUEST, "resume"),
    ],
)
async def test_bad_requests_are_refused_by_name_and_leave_nothing(
    prompt: Prompt, sampling: dict[str, Any], more: dict[str, Any], kind: ErrorKind, param: str
) -> None:
    async with stage(tokens=2) as on:
        error = await refused(on.submit(prompt, more=more, **sampling))
        assert (error.kind, error.param) == (kind, param)
        assert (on.engine.load().waiting, on.engine.load().pending_tokens) == (0, 0)
        await on.answer(on.request())


async def test_another_model_is_not_found() -> None:
    async with stage() as on:
        error = await refused(on.engine.submit(replace(on.request(), model="gpt")))
        assert (error.kind, error.param) == (ErrorKind.MODEL_NOT_FOUND, "model")
        assert "'scripted'" in error.message


async def test_finished_choices_alone_make_an_answer() -> None:
    async with stage() as on:
        request = replace(on.request(), resume={0: Progress((1, END), finished=True)})
        assert [type(event) for event in await on.answer(request)] == [Started, Finished]
        assert on.engine.load().pending_tokens == 0


async def test_tokenize_and_detokenize_are_the_prompts_own() -> None:
    async with stage(tokens=3) as on:
        ids = await on.engine.tokenize("scripted", SAY)
        events = await on.answer(on.request(Tokens(tuple(ids))))
        assert isinstance(events[0], Started)
        assert events[0].prompt_tokens == len(ids)
        assert token_ids(events) == token_ids(await on.answer(on.request()))
        plain = await on.engine.tokenize("scripted", Text("the sea é"), add_special_tokens=False)
        assert await on.engine.detokenize("scripted", plain) == "the sea é"
        shown = await on.engine.detokenize("scripted", ids, keep_special_tokens=True)
        assert shown == "<|begin|><|user|>Say something<|end|><|assistant|>"


async def test_embeddings_are_unit_vectors_that_tell_inputs_apart() -> None:
    async with stage(embedding_size=16, context_length=10) as on:
        inputs = (Text("a"), Text("b"), Tokens((1, 2)))
        arguments: dict[str, Any] = {"dimensions": None, "normalize": None, "truncate": False}
        made = await on.engine.embed("", inputs, **arguments)
        assert [len(vector) for vector in made.vectors] == [16] * 3
        assert [sum(x * x for x in vector) for vector in made.vectors] == pytest.approx([1.0] * 3)
        assert len({tuple(vector) for vector in made.vectors}) == 3
        assert made.prompt_tokens == 2 + 2 + 2
        assert (await on.engine.embed("", inputs, **arguments)).vectors == made.vectors
        short = await on.engine.embed("", inputs[:1], dimensions=5, normalize=None, truncate=False)
        assert len(short.vectors[0]) == 5
        error = await refused(on.engine.embed("", (Text("x" * 20),), **arguments))
        assert error.kind is ErrorKind.CONTEXT_LENGTH_EXCEEDED
        cut = await on.engine.embed("", (Text("x" * 20),), dimensions=None, normalize=None, truncate=True)
        assert cut.prompt_tokens == 10


def test_equal_options_have_equal_fingerprints(tmp_path: Path) -> None:
    def mark(**options: Any) -> str:
        return ScriptedEngine(ScriptedOptions(**options)).models[0].fingerprint

    assert mark() == mark(name="other", step_interval=1.0, slots=3)
    assert len({mark(), mark(tokens=3), mark(text="echo"), mark(context_length=7)}) == 4


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tokens": 0}, "tokens"),
        ({"step_interval": -1}, "step_interval"),
        ({"jitter": 2}, "jitter"),
        ({"text": "/no/file"}, "text"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], param: str) -> None:
    with pytest.raises(MeshError) as caught:
        ScriptedEngine(ScriptedOptions(**options))
    assert caught.value.param == param


async def test_the_smallest_installation_is_enough() -> None:
    """Neither torch nor numpy nor transformers is needed."""
    program = (
        "import sys, mesh.engine.scripted; print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n"
