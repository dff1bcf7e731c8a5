"""Answers and judgments through a made-up endpoint: what is asked, what is written, and what becomes of failures."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mt_bench.endpoint import Failed, Reply
from benchmarks.mt_bench.jsonl import BadFile, read
from benchmarks.mt_bench.matches import answered_models, contests, load_answers, plan
from benchmarks.mt_bench.question_set import load
from benchmarks.mt_bench.records import Answer, Pair, Single, read_failures
from benchmarks.mt_bench.run_folder import held
from tests.component import fake_provider
from tests.component.fake_provider import CUT, FakeProvider, Seen
from tests.component.mtbench_rig import JSON, answer, endpoint, error, judge, last, provider, said, small_set

HELLO: list[dict[str, str]] = [{"role": "user", "content": "Hello"}]


def echo(seen: Seen) -> fake_provider.Reply:
    """The question again, by the model's name."""
    return said(f"{seen.body['model']} says {last(seen)}")


def rates(seen: Seen) -> fake_provider.Reply:
    """Seven, always."""
    return said("Fine.\n\nRating: [[7]]")


async def test_a_conversation_is_asked_as_the_protocol_has_it(tmp_path: Path) -> None:
    questions = small_set(tmp_path)
    async with provider(echo) as fake:
        await answer(questions, tmp_path / "run", fake, models=["m", "x/y"], choices=2, system="Be brief.", seed=5)
    asked = {
        (seen.body["model"], seen.body["seed"], len(seen.body["messages"]), last(seen)): seen.body for seen in fake.seen
    }
    assert len(asked) == len(fake.seen) == 2 * 2 * 3
    second = asked["m", 6, 4, "And + 1?"]
    assert second["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "m says 1 + 1?"},
        {"role": "user", "content": "And + 1?"},
    ]
    assert (second["temperature"], second["max_tokens"]) == (0.0, 1024)
    assert asked["m", 5, 2, "Write a word."]["temperature"] == 0.7
    lines = read(tmp_path / "run" / "model_answer" / "x%2Fy.jsonl", Answer)
    assert [(line.question_id, line.model_id, len(line.choices)) for line in lines] == [(1, "x/y", 2), (2, "x/y", 2)]
    assert lines[0].choices[0].turns == ["x/y says 1 + 1?", "x/y says And + 1?"]
    assert lines[0].usage is not None
    assert lines[0].usage.completion_tokens == 2 * 2 * 5


async def test_what_is_answered_is_not_asked_again_and_failures_are(tmp_path: Path) -> None:
    questions = small_set(tmp_path)
    run = tmp_path / "run"
    async with provider(lambda seen: error(400, "too long") if "And" in last(seen) else echo(seen)) as fake:
        await answer(questions, run, fake)
    assert [line.question_id for line in read(run / "model_answer" / "m.jsonl", Answer)] == [2]
    assert [(each.kind, each.question_id, each.reason) for each in read_failures(run)] == [
        ("answer", 1, "turn 2: HTTP 400: too long")
    ]
    async with provider(echo) as fake:
        await answer(questions, run, fake)
        assert [last(seen) for seen in fake.seen] == ["1 + 1?", "And + 1?"]
        await answer(questions, run, fake)
        assert len(fake.seen) == 2
    assert [line.question_id for line in read(run / "model_answer" / "m.jsonl", Answer)] == [1, 2]
    assert read_failures(run) == []
    with pytest.raises(BadFile, match=r"question 1 was answered with max_tokens 1024, not 5"):
        async with provider(echo) as fake:
            await answer(questions, run, fake, max_tokens=5)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (said(""), "turn 1: empty answer (finish_reason stop)"),
        (said(" \n"), "turn 1: empty answer (finish_reason stop)"),
        (said("<think>hm", finish="length"), "turn 1: empty answer, after thinking only (finish_reason length)"),
        (said(None, reasoning_content="hm"), "turn 1: empty answer, after thinking only (finish_reason stop)"),
        (said(None, refusal="I will not."), "turn 1: refused: I will not."),
        (error(404, "no such model"), "turn 1: HTTP 404: no such model"),
        (error(500, "broken"), "turn 1: HTTP 500: broken (3 attempts)"),
        (
            fake_provider.Reply([b"<html>Bad gateway</html>"], headers={"content-type": "text/html"}),
            "turn 1: not an answer of the API: it has no choices (3 attempts)",
        ),
        (fake_provider.Reply([b'{"choices": []}'], headers=JSON), "it has no choices (3 attempts)"),
        (fake_provider.Reply([b'{"choices": [{"mess'], headers=JSON), "turn 1: not an answer of the API"),
        (fake_provider.Reply([CUT]), "turn 1: no connection"),
    ],
)
async def test_a_failure_says_why_and_is_no_answer(tmp_path: Path, reply: fake_provider.Reply, reason: str) -> None:
    questions = small_set(tmp_path, {"question_id": 2, "category": "writing", "turns": ["Write a word."]})
    async with FakeProvider(reply) as fake:
        await answer(questions, tmp_path / "run", fake)
    assert not (tmp_path / "run" / "model_answer" / "m.jsonl").exists()
    assert [reason in each.reason for each in read_failures(tmp_path / "run")] == [True], read_failures(
        tmp_path / "run"
    )


async def test_a_temperature_and_a_seed_need_not_be_sent(tmp_path: Path) -> None:
    """Some models refuse a temperature, some endpoints a seed or the name max_tokens."""
    questions = small_set(tmp_path, {"question_id": 1, "category": "writing", "turns": ["Hi"]})
    async with provider(rates) as fake:
        await answer(questions, tmp_path / "run", fake, temperature=-1, seed=None)
        await judge(questions, tmp_path / "run", fake, temperature=None)
        for seen in fake.seen:
            assert seen.body.keys() == {"model", "messages", "max_tokens", "stream"}
        async with endpoint(fake, token_parameter="max_completion_tokens") as client:
            await client.chat("m", HELLO, 10)
        assert fake.seen[-1].body.keys() == {"model", "messages", "max_completion_tokens", "stream"}
    (line,) = read(tmp_path / "run" / "model_answer" / "m.jsonl", Answer)
    assert line.settings is not None
    assert (line.settings.temperature, line.settings.seed) == (None, None)


async def test_an_answer_that_lacks_a_choice_stays_a_failure(tmp_path: Path) -> None:
    """Asked for one conversation, then for two: what is there has one, and that of the second run failed."""
    questions = small_set(tmp_path, {"question_id": 1, "category": "writing", "turns": ["Hi"]})
    run = tmp_path / "run"
    async with provider(echo) as fake:
        assert await answer(questions, run, fake) == []
    async with provider(lambda seen: error(400, "no") if seen.body["seed"] == 1 else echo(seen)) as fake:
        failures = await answer(questions, run, fake, choices=2)
    assert [each.reason for each in failures] == ["turn 1: HTTP 400: no"]
    assert read_failures(run) == failures
    assert [len(line.choices) for line in read(run / "model_answer" / "m.jsonl", Answer)] == [1]


async def test_thinking_is_kept_apart(tmp_path: Path) -> None:
    questions = small_set(tmp_path, {"question_id": 1, "category": "math", "turns": ["1 + 1?", "And + 1?"]})
    replies = [said("<think>One and one.</think>Two"), said("Three", reasoning_content="Two and one.")]
    async with FakeProvider(*replies) as fake:
        await answer(questions, tmp_path / "run", fake)
        assert fake.seen[1].body["messages"][1] == {"role": "assistant", "content": "Two"}
    (line,) = read(tmp_path / "run" / "model_answer" / "m.jsonl", Answer)
    assert line.choices[0].turns == ["Two", "Three"]
    assert line.choices[0].thinking == ["One and one.", "Two and one."]


async def test_retry_after_is_kept_for_all_requests_to_that_model() -> None:
    """Two at once: the one that is told to wait holds the next request of the same model back as well."""
    arrived: list[tuple[str, float]] = []
    told = iter([error(429, "slow down", **{"retry-after": "0.6"})])

    def reply(seen: Seen) -> fake_provider.Reply:
        arrived.append((seen.body["model"], time.monotonic()))
        return next(told, said("ok")) if seen.body["model"] == "busy" else said("ok")

    async with provider(reply) as fake, endpoint(fake) as client:
        first = asyncio.create_task(client.chat("busy", HELLO, 10))
        await asyncio.wait_for(_until(lambda: len(arrived) == 1), 5)
        await asyncio.wait_for(_until(lambda: client.waits("busy")), 5)
        await asyncio.gather(client.chat("busy", HELLO, 10), client.chat("idle", HELLO, 10))
        assert isinstance(await first, Reply)
    began = arrived[0][1]
    assert [at - began >= 0.59 for model, at in arrived[1:] if model == "busy"] == [True, True]
    assert [at - began < 0.59 for model, at in arrived if model == "idle"] == [True]


async def _until(check: Any) -> None:
    while not check():
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("header", ["3600", formatdate(time.time() + 3600, usegmt=True)], ids=["seconds", "date"])
async def test_what_would_wait_too_long_fails_at_once(header: str) -> None:
    async with FakeProvider(error(429, "quota", **{"retry-after": header})) as fake, endpoint(fake) as client:
        found = await client.chat("m", HELLO, 10)
    assert isinstance(found, Failed)
    assert found.reason.startswith("HTTP 429: quota; it asks to wait 3")
    assert len(fake.seen) == 1


async def test_to_be_told_when_to_come_back_is_no_attempt_but_has_a_limit() -> None:
    busy = error(429, "slow down", **{"retry-after": "0.01"})
    async with FakeProvider(*[busy] * 5, said("ok")) as fake, endpoint(fake, attempts=1) as client:
        assert isinstance(await client.chat("m", HELLO, 10), Reply)
    async with FakeProvider(busy) as fake, endpoint(fake, patience=0.035) as client:
        found = await client.chat("m", HELLO, 10)
        assert found == Failed("HTTP 429: slow down; it asks to wait 0.04 s in all, the limit is 0.035 s")
        assert len(fake.seen) == 4
    for reply in (error(503, "away", **{"retry-after": "0.01"}), error(429, "no time told")):
        async with FakeProvider(reply) as fake, endpoint(fake) as client:
            found = await client.chat("m", HELLO, 10)
        assert isinstance(found, Failed)
        assert found.reason.endswith(" (3 attempts)")


async def test_every_wait_has_a_limit() -> None:
    never = asyncio.Event()
    async with FakeProvider(fake_provider.Reply([never])) as fake, endpoint(fake, timeout=0.2) as client:
        found = await client.chat("m", HELLO, 10)
    assert found == Failed("no answer within 0.2 s (3 attempts)")


async def test_no_more_requests_at_once_than_allowed(tmp_path: Path) -> None:
    rows = [{"question_id": id_, "category": "writing", "turns": ["a"]} for id_ in range(3, 15)]
    questions = small_set(tmp_path, *rows)
    gate = asyncio.Event()
    async with provider(lambda seen: fake_provider.Reply([gate, *said("ok").acts], headers=JSON)) as fake:
        running = asyncio.create_task(
            answer(questions, tmp_path / "run", fake, models=["a", "b"], limit=5, limit_each=3)
        )
        await asyncio.wait_for(_until(lambda: len(fake.seen) == 5), 5)
        models = [seen.body["model"] for seen in fake.seen]
        assert sorted(map(models.count, "ab")) == [2, 3]
        gate.set()
        await running
    assert len(fake.seen) == 24


async def test_judgments_are_made_and_written_as_fastchat_does(tmp_path: Path) -> None:
    questions = small_set(tmp_path)
    run = tmp_path / "run"
    async with provider(echo) as fake:
        await answer(questions, run, fake, models=["m"])
    async with provider(rates) as fake:
        judging = await judge(questions, run, fake)
    lines = read(run / "model_judgment" / "j_single.jsonl", Single)
    assert [(line.question_id, line.turn, line.score, line.judge[1]) for line in lines] == [
        (1, 1, 7, "mesh-single-reference"),
        (1, 2, 7, "mesh-single-reference-multi-turn"),
        (2, 1, 7, "mesh-single"),
    ]
    assert [line.references for line in lines] == ["r", "r", None]
    assert all(text in lines[1].user_prompt for text in ("Two.", "Three.", "m says 1 + 1?", "m says And + 1?"))
    assert (judging.spent.judged, judging.spent.requests) == (3, 3)
    body = fake.seen[0].body
    assert (body["temperature"], body["max_tokens"], [m["role"] for m in body["messages"]]) == (
        0.0,
        2048,
        ["system", "user"],
    )
    row = json.loads((run / "model_judgment" / "j_single.jsonl").read_text().splitlines()[0])
    fastchats = {"question_id", "model", "judge", "user_prompt", "judgment", "score", "turn", "tstamp"}
    assert fastchats <= row.keys()
    assert isinstance(row["score"], int)


def prefers(wanted: str) -> Any:
    """A judge that likes the answer of one model, wherever it stands."""

    def reply(seen: Seen) -> fake_provider.Reply:
        _, _, rest = last(seen).partition("A>")
        first = rest.partition("B>")[0]
        return said("[[A]]" if f"{wanted} says" in first else "[[B]]")

    return reply


async def test_pairs_are_played_in_both_orders(tmp_path: Path) -> None:
    questions = small_set(tmp_path)
    run = tmp_path / "run"
    async with provider(echo) as fake:
        await answer(questions, run, fake, models=["a", "b", "c"])
    async with provider(prefers("b")) as fake:
        await judge(questions, run, fake, mode="pairwise-baseline", baseline="a")
        assert len(fake.seen) == 2 * 2 * 3
    lines = read(run / "model_judgment" / "j_pair.jsonl", Pair)
    assert {(line.model_1, line.model_2): (line.g1_winner, line.g2_winner, line.winner) for line in lines} == {
        ("b", "a"): ("model_1", "model_1", "model_1"),
        ("c", "a"): ("model_2", "model_1", "inconsistent"),
    }
    async with provider(prefers("b")) as fake:  # those with a are there already, named the other way round
        await judge(questions, run, fake, mode="pairwise-all")
        assert len(fake.seen) == 2 * 3
    assert len(read(run / "model_judgment" / "j_pair.jsonl", Pair)) == 9


async def test_five_levels_are_kept_beside_the_winner(tmp_path: Path) -> None:
    questions = small_set(tmp_path, {"uid": "u", "category": "hard", "prompt": "Sort."})
    run = tmp_path / "run"
    async with provider(echo) as fake:
        await answer(questions, run, fake, models=["a", "b"])
    async with provider(lambda seen: said("[[A>>B]]")) as fake:
        await judge(questions, run, fake, mode="pairwise-all")
    (line,) = read(run / "model_judgment" / "j_pair.jsonl", Pair)
    assert (line.g1_winner, line.g2_winner, line.g1_verdict, line.g2_verdict) == ("model_1", "model_2", "A>>B", "A>>B")


async def test_a_verdict_that_cannot_be_read_is_asked_for_again_and_then_unscored(tmp_path: Path) -> None:
    questions = small_set(tmp_path, {"question_id": 2, "category": "writing", "turns": ["Write a word."]})
    run = tmp_path / "run"
    async with provider(echo) as fake:
        await answer(questions, run, fake)
    async with FakeProvider(said("[[7]] or [[9]]"), said("Rating: [[11]]")) as fake:
        judging = await judge(questions, run, fake)
        assert len(fake.seen) == 2
    assert (judging.spent.judged, judging.spent.unscored, judging.failures) == (1, 1, [])
    (line,) = read(run / "model_judgment" / "j_single.jsonl", Single)
    assert (line.score, line.unscored) == (-1, "rating 11 is not between 1 and 10")
    async with FakeProvider(said("Hm", finish="length"), rates_reply()) as fake:
        await judge(questions, run, fake)
        await judge(questions, run, fake)
        assert len(fake.seen) == 2
    (line,) = read(run / "model_judgment" / "j_single.jsonl", Single)
    assert (line.score, line.unscored) == (7, None)


def rates_reply() -> fake_provider.Reply:
    """Seven."""
    return said("Rating: [[7]]")


async def test_a_judge_that_fails_leaves_a_failure_and_no_judgment(tmp_path: Path) -> None:
    questions = small_set(tmp_path)
    run = tmp_path / "run"
    async with provider(echo) as fake:
        await answer(questions, run, fake)
    async with provider(lambda seen: error(503, "away") if "word" in last(seen) else rates_reply()) as fake:
        judging = await judge(questions, run, fake)
    assert judging.failures == read_failures(run)
    assert len(read(run / "model_judgment" / "j_single.jsonl", Single)) == 2
    assert [(each.kind, each.question_id, each.turn, each.reason) for each in read_failures(run)] == [
        ("single", 2, 1, "HTTP 503: away (3 attempts)")
    ]
    async with provider(rates) as fake:
        await judge(questions, run, fake)
        assert len(fake.seen) == 1
    assert not (run / "failures.jsonl").exists()


async def test_a_changed_answer_or_reference_is_judged_anew(tmp_path: Path) -> None:
    questions = small_set(tmp_path)
    run = tmp_path / "run"
    async with provider(echo) as fake:
        await answer(questions, run, fake)
    async with provider(rates) as fake:
        await judge(questions, run, fake)
        asked = len(fake.seen)
        path = run / "model_answer" / "m.jsonl"
        path.write_text(path.read_text().replace("m says Write", "m now says Write"))
        await judge(questions, run, fake)
        assert len(fake.seen) == asked + 1
        overlay = tmp_path / "fixed.jsonl"
        overlay.write_text('{"question_id": 1, "turns": [null, "3"]}\n')
        await judge(load("own", tmp_path, corrections=overlay), run, fake)
        assert len(fake.seen) == asked + 2  # the first turn's reference is as it was


async def test_the_same_prompt_is_paid_for_once(tmp_path: Path) -> None:
    """Two models gave the same answer; and a run in another folder that shares the cache."""
    questions = small_set(tmp_path)
    run = tmp_path / "run"
    async with provider(lambda seen: said("Same.")) as fake:
        await answer(questions, run, fake, models=["a", "b"])
    async with provider(rates) as fake:
        judging = await judge(questions, run, fake)
        assert (len(fake.seen), judging.spent.cached, judging.spent.judged) == (3, 3, 6)
        (run / "model_judgment" / "j_single.jsonl").unlink()
        judging = await judge(questions, run, fake)
        assert (len(fake.seen), judging.spent.cached) == (3, 6)
        await judge(questions, run, fake, judges=["k"])
        assert len(fake.seen) == 6  # another judge is another matter
        (run / "model_judgment" / "j_single.jsonl").unlink()
        await judge(questions, run, fake, temperature=0.5)
        assert len(fake.seen) == 9


async def test_failed_answers_are_not_judged(tmp_path: Path) -> None:
    questions = small_set(tmp_path)
    run = tmp_path / "run"
    async with provider(echo) as fake:
        await answer(questions, run, fake)
    lines = (run / "model_answer" / "m.jsonl").read_text().splitlines()
    for said_instead in ("", "$ERROR$"):
        failed = lines[1].replace("m says Write a word.", said_instead)
        (run / "model_answer" / "m.jsonl").write_text(failed + "\n" + lines[0] + "\n")
        todo = plan(questions, load_answers(run, ["m"]), "j", contests("single", answered_models(run), ""), run)
        assert (len(todo.todo), todo.unanswered) == (2, 1)
    with pytest.raises(BadFile, match="model 'nobody' has no answers in "):
        load_answers(run, ["m", "nobody"])


def test_one_run_at_a_time_writes_a_folder(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(BadFile, match="another run is writing here"), held(tmp_path):
        raise AssertionError
    left = tmp_path / "model_answer" / "m.jsonl.01.new"
    left.parent.mkdir()
    left.write_text("half")
    with held(tmp_path):
        assert not left.exists()


async def test_a_file_with_every_line_of_a_run_that_was_killed_is_gone_on_with(tmp_path: Path) -> None:
    """Whatever line the kill came after or in, the resumed file has each answer once."""
    questions = small_set(tmp_path)
    async with provider(echo) as fake:
        await answer(questions, tmp_path / "whole", fake)
        whole = (tmp_path / "whole" / "model_answer" / "m.jsonl").read_bytes()
        for place, cut in enumerate(itertools.chain(range(0, len(whole), 97), [len(whole) - 1])):
            path = tmp_path / f"cut{place}" / "model_answer" / "m.jsonl"
            path.parent.mkdir(parents=True)
            path.write_bytes(whole[:cut])
            await answer(questions, path.parent.parent, fake)
            assert [line.answer_id for line in read(path, Answer)] == [
                line.answer_id for line in read(tmp_path / "whole" / "model_answer" / "m.jsonl", Answer)
            ]
