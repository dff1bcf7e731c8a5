"""What the gate lets in, what it marks, and which voters stand out."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mesh.config import ConfigError
from webui.config import WebConfig
from webui.leaderboard.ballots import Ballots, Group
from webui.leaderboard.bradley_terry import sigmoid
from webui.records import Answer, Battle, Finish, Flag, ModelCard, Refused, Turn, Visitor
from webui.traits.conversation import traits
from webui.traits.style import Style
from webui.traits.text import normal_hash, pieces
from webui.trust.gate import ArenaGate, Limits
from webui.trust.identity import IdentityWatch
from webui.trust.images import ImageLimits, admit
from webui.trust.limits import Buckets, DailyCount
from webui.trust.moderation import ModerationUnavailable, WordList
from webui.trust.voters import suspicions

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def battle(*models: str) -> Battle:
    return Battle(id="x", mode="battle", models=models, voter="v", opened=NOW)


def turn(a: str, b: str, finish: Finish = "stop", prompt: str = "?") -> Turn:
    return Turn(
        number=1, prompt=prompt, asked=NOW, answers=(Answer(text=a, finish=finish), Answer(text=b, finish="stop"))
    )


# --- limits ---


def test_a_bucket_takes_bursts_and_fills_again() -> None:
    clock = Clock()
    buckets = Buckets(60, 3, clock)
    assert [buckets.take("v") for _ in range(4)] == [0, 0, 0, 1]
    clock.now = 0.75
    assert buckets.take("v") == pytest.approx(0.25)
    clock.now = 1.0
    assert buckets.take("v") == 0
    clock.now = 1000
    assert [buckets.take("v") for _ in range(4)] == [0, 0, 0, 1]
    assert buckets.take("w") == 0


def test_nothing_is_taken_when_one_key_has_nothing_left() -> None:
    buckets = Buckets(60, 1, Clock())
    assert buckets.take("shared") == 0
    assert buckets.take("own", "shared") == 1
    assert buckets.take("own") == 0


def test_a_day_begins_at_midnight() -> None:
    clock = Clock()
    clock.now = 86_400 * 5 - 10
    count = DailyCount(2, clock)
    assert [count.take("v") for _ in range(3)] == [0, 0, 10]
    clock.now += 10
    assert count.take("v") == 0


def test_the_gate_says_the_limit_and_the_value() -> None:
    gate = ArenaGate(
        Limits(prompts_per_minute=6, prompt_burst=1, votes_per_day=1, address_factor=2, prompt_characters=5)
    )
    one, two, three = (Visitor(name, "10.0.0.1") for name in "abc")
    with pytest.raises(Refused, match=r"has 6 characters; at most 5") as caught:
        gate.admit_prompt(one, "123456")
    gate.admit_prompt(one, "12345")
    with pytest.raises(Refused, match="At most 6 prompts a minute") as caught:
        gate.admit_prompt(one, "")
    assert caught.value.retry_after == pytest.approx(10, abs=1)
    gate.admit_prompt(two, "")
    with pytest.raises(Refused):  # the third behind one address
        gate.admit_prompt(three, "")
    gate.admit_vote(one, 0)
    with pytest.raises(Refused, match="At most 1 votes a day"):
        gate.admit_vote(one, 1)
    gate.admit_vote(two, 0)
    with pytest.raises(Refused, match="At most 1 votes a day"):  # the third behind one address
        gate.admit_vote(three, 0)


# --- images ---


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def test_a_picture_comes_without_its_metadata_and_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    exif[0x010E] = "where I live"
    picture = Image.new("RGB", (40, 20), "red")
    admitted = admit(encoded(picture, "JPEG", exif=exif, comment=b"secret", icc_profile=b"profile"), ImageLimits())
    assert (admitted.media_type, admitted.width, admitted.height) == ("image/jpeg", 20, 40)
    with Image.open(io.BytesIO(admitted.data)) as again:
        assert not again.getexif()
        assert {"comment", "icc_profile", "exif"}.isdisjoint(again.info)
    assert b"where I live" not in admitted.data


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGBA"), ("WEBP", "RGBA"), ("GIF", "P"), ("PNG", "1"), ("PNG", "I;16")]
)
def test_kinds_of_pictures(kind: str, mode: str) -> None:
    admitted = admit(encoded(Image.new(mode, (5000, 10)), kind), ImageLimits(side=100))
    assert (admitted.media_type, admitted.width, admitted.height) == ("image/png", 100, 1)
    assert admit(admitted.data, ImageLimits(side=100)).key == admitted.key


def test_pictures_that_are_none() -> None:
    png = encoded(Image.new("RGB", (600, 600), "red"), "PNG")
    bomb = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    for data, why in [
        (b"", "no picture"),
        (b"<svg onload=alert(1)>", "no picture"),
        (png[: len(png) // 2], "no picture"),
        (encoded(Image.new("RGB", (9, 9)), "TIFF"), "no picture"),
        (bomb, "million"),
        (encoded(Image.new("1", (600, 600)), "PNG") + bytes(3000), "KiB|MiB"),
    ]:
        with pytest.raises(Refused, match=why):
            admit(data, ImageLimits(bytes=60_000 if data is bomb else 3000, pixels=1_000_000))
    with pytest.raises(Refused, match="600×600 pixels"):
        admit(png, ImageLimits(pixels=1000))


# --- identity, refusals ---


@pytest.mark.parametrize(
    ("answer", "leaks"),
    [
        ("I am Qwen, a large language model.", True),
        ("Hi! I'm an AI assistant created by Alibaba Cloud.", True),
        ("As a language model trained by Example Labs, I cannot smell.", True),
        ("You are talking to Tiny-Fox 2B.", True),
        ("tiny fox 2b at your service", True),
        ("我是通义千问，由 Qwen 团队", True),
        ("GPT-4 and Claude are models by other companies.", False),
        ("I am happy to help with your llama farm.", False),
        ("The fox is a tiny animal.", False),
    ],
)
def test_answers_that_say_who_gives_them(answer: str, leaks: bool) -> None:
    watch = IdentityWatch([ModelCard(name="acme/tiny-fox-2b", organization="Example Labs")])
    flags = watch.flags(["other", "acme/tiny-fox-2b"], ["Fine.", answer])
    assert [flag.side for flag in flags] == (["b"] if leaks else [])


async def test_what_a_turn_is_marked_with() -> None:
    gate = ArenaGate(moderation=WordList(["# no comment", "forbidden word"]))
    kinds = {
        ("Sorry, I cannot help with that. I can't assist.", "stop"): ["refusal"],
        ("I'm sorry, but I can't do it.", "length"): ["refusal", "unfinished"],
        ("I am Claude.", "stop"): ["identity"],
        ("A Forbidden Word here", "stop"): ["moderation"],
        ("unforbidden words, forbidden wordings", "stop"): [],
        ("half an ans", "error"): ["error"],
    }
    for (text, finish), expected in kinds.items():
        flags = (
            await gate.inspect(battle("fox-1", "owl-2"), turn(text, "Good."))
            if finish == "stop"
            else await gate.inspect(
                battle("fox-1", "owl-2"),
                turn(text, "Good.", finish),  # pyright: ignore[reportArgumentType]
            )
        )
        assert sorted(flag.kind for flag in flags) == expected, text
        assert {flag.side for flag in flags} <= {"a"}
    named = replace(battle("fox-1", "owl-2"), mode="named")
    assert await gate.inspect(named, turn("I am Claude.", "Good.")) == []


class Broken:
    async def flagged(self, texts: Sequence[str]) -> list[str]:
        raise ModerationUnavailable("no route to host")


async def test_nobody_is_let_in_unseen() -> None:
    gate = ArenaGate(moderation=Broken())
    with pytest.raises(Refused, match="cannot be checked at the moment"):
        await gate.moderate(["hello"])
    assert await gate.inspect(battle("fox-1", "owl-2"), turn("a", "b")) == [
        Flag("report", None, "moderation was not available")
    ]
    await ArenaGate().moderate(["hello"])
    with pytest.raises(Refused, match="rules"):
        await ArenaGate(moderation=WordList(["bad"])).moderate(["fine", "so bad"])


def web_config(**settings: Any) -> WebConfig:
    return WebConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"boost": ("new",)}, "--boost"),
        ({"boost": ("new=0",)}, "--boost"),
        ({"boost": ("new=nan",)}, "--boost"),
        ({"boost": ("=2",)}, "--boost"),
        ({"moderation_url": "http://127.0.0.1:9/v1"}, "--moderation-url"),
    ],
)
def test_settings_that_cannot_be_kept_to(settings: dict[str, Any], flag: str) -> None:
    with pytest.raises(ConfigError, match=flag):
        web_config(**settings)


def test_factors_of_models_whose_names_have_signs_of_their_own() -> None:
    assert web_config(boost=("acme/fox=b=2.5", "owl=0.5")).boosts == {"acme/fox=b": 2.5, "owl": 0.5}


# --- traits ---


def test_traits_of_conversations() -> None:
    plain = traits(
        [turn("Foxes are animals.", "# Fox\n\n- **red**\n- small\n1. quick", prompt="What is a fox, please?")]
    )
    assert (plain.language, plain.categories, plain.b) == ("en", (), Style(13, 1, 3, 1))
    code = turn("```python\n# no header\n- 1\n```", "x", prompt="1+1")
    both = traits([code, code], "image")
    assert (both.language, both.categories) == ("unknown", ("code", "image", "multi_turn"))
    assert (both.a.headers, both.a.lists) == (0, 0)
    assert traits([turn("", "", prompt="Erzähle mir " + "bitte noch etwas " * 200)]).categories == ("long_query",)
    assert traits([turn("", "", prompt="def f(x):\n  return x\nimport os\n")]).categories == ("code",)
    assert "short_query" in traits([turn("", "", prompt="Hello there")]).categories


def test_length_and_sameness_of_texts() -> None:
    assert (pieces("don't stop"), pieces("你好，世界"), pieces("")) == (4, 5, 0)
    assert normal_hash("Hello,  World!") == normal_hash("hello world") != normal_hash("hello word")
    assert normal_hash("?") != normal_hash("!")


# --- voters ---


def crowd(voters: int, votes: int, odd: dict[int, str], seed: int = 0) -> Ballots:
    """Voters with opinions on four models; odd ones vote `a` always, `random`ly, or `backwards`."""
    rng = np.random.default_rng(seed)
    theta = np.array([0.9, 0.3, -0.3, -0.9])
    names = [f"m{index}" for index in range(4)]
    groups: dict[Group, int] = {}
    codes: list[int] = []
    for voter in range(voters):
        for _ in range(votes):
            a, b = rng.choice(4, 2, replace=False)
            chance = float(sigmoid(np.array(theta[a] - theta[b])))
            kind = odd.get(voter, "")
            wins = rng.random() < {"": chance, "a": 1.0, "random": 0.5, "backwards": 1 - chance**0.5}[kind]
            group = Group(names[a], names[b], "a" if wins else "b", "en", "", "", True)
            codes.append(groups.setdefault(group, len(groups)))
    n = voters * votes
    voter_codes = np.repeat(np.arange(voters), votes)
    return Ballots(
        tuple(groups),
        np.array(codes, np.int64),
        np.zeros(n),
        np.zeros((n, 4, 2), np.int32),
        voter_codes,
        tuple(f"voter-{index}" for index in range(voters)),
    )


def test_voters_against_everybody_stand_out_and_others_do_not() -> None:
    found = suspicions(crowd(300, 60, {0: "backwards", 1: "backwards", 2: "backwards"}))
    assert {suspicion.voter for suspicion in found[:3]} == {"voter-0", "voter-1", "voter-2"}
    assert all(suspicion.p < 1e-3 for suspicion in found[:3])
    assert sum(suspicion.p <= 0.01 for suspicion in found[3:]) <= 6  # of 297; two standard deviations above 1 %
    again = suspicions(crowd(300, 60, {0: "backwards", 1: "backwards", 2: "backwards"}))
    assert found == again


def test_few_votes_are_no_ground_for_suspicion() -> None:
    assert suspicions(crowd(20, 4, {0: "backwards"})) == []
    assert suspicions(crowd(0, 0, {})) == []


@pytest.mark.parametrize(
    ("lines", "why"),
    [("ann:nut\nbob\n", "line 2 .* NAME:PASSWORD"), ("ann:\n", "line 1"), ("# nobody\n\n", "lets nobody in")],
)
def test_a_login_without_a_password_is_no_login(tmp_path: Path, lines: str, why: str) -> None:
    file = tmp_path / "accounts"
    file.write_text(lines)
    with pytest.raises(ConfigError, match=why):
        WebConfig(login=file)
    file.write_text("# who may enter\n ann:wal:nut \n")
    assert WebConfig(login=file).accounts == [("ann", "wal:nut")]
