"""What a name stands for: shares, stickiness, order; and what counts as a mistake in what operators write."""

from __future__ import annotations

from collections import Counter

import pytest

from gateway.openai.models import listed
from gateway.routing.aliases import Aliases
from gateway.routing.directory import Offer
from mesh.errors import MeshError
from mesh.registry import decode_alias, encode_value
from mesh.v1.registry_pb2 import Alias, Share


def known(**aliases: Alias) -> Aliases:
    found = Aliases()
    for name, alias in aliases.items():
        found.on_alias(name, alias)
    return found


def test_a_name_of_nothing_is_a_model() -> None:
    way = known().way("m", who=b"", request=b"")
    assert (way.alias, way.models, way.shadows) == (False, ("m",), ())


def test_a_split_gives_each_model_its_share_and_everybody_always_the_same() -> None:
    aliases = known(a=Alias(model="m", split=[Share(model="b", share=0.3), Share(model="c", share=0.1)]))
    ways = {n: aliases.way("a", who=b"%d" % n, request=b"").models for n in range(2000)}
    counts = Counter(model for (model,) in ways.values())
    assert 520 < counts["b"] < 680
    assert 140 < counts["c"] < 260
    assert counts["m"] == 2000 - counts["b"] - counts["c"]
    assert all(aliases.way("a", who=b"%d" % n, request=b"other").models == way for n, way in ways.items())


def test_fallbacks_follow_whatever_the_split_says_and_no_model_comes_twice() -> None:
    aliases = known(a=Alias(model="m", split=[Share(model="b", share=1)], fallbacks=["m", "b", "c"]))
    assert aliases.way("a", who=b"", request=b"").models == ("b", "m", "c")
    assert aliases.models("a") == ["m", "b", "c"]


def test_copies_are_drawn_by_request_and_each_model_by_itself() -> None:
    aliases = known(a=Alias(model="m", shadows=[Share(model="b", share=0.5), Share(model="c", share=0.5)]))
    drawn = Counter(aliases.way("a", who=b"me", request=b"%d" % n).shadows for n in range(400))
    assert set(drawn) == {(), ("b",), ("c",), ("b", "c")}
    assert all(60 < count < 140 for count in drawn.values())


def test_a_name_can_be_taken_back() -> None:
    aliases = known(a=Alias(model="m"))
    aliases.on_alias("a", None)
    assert not aliases.way("a", who=b"", request=b"").alias


def test_an_alias_reads_as_people_would_write_it() -> None:
    alias = Alias(model="m", split=[Share(model="b", share=0.25)], fallbacks=["c"], fallback_after=0.5)
    assert encode_value(alias) == (
        b'{"model": "m", "split": [{"model": "b", "share": 0.25}], "fallbacks": ["c"], "fallback_after": 0.5}'
    )
    assert decode_alias(encode_value(alias)) == alias


@pytest.mark.parametrize(
    "value",
    [
        b"{}",
        b'{"model": "m", "split": [{"model": "b", "share": 0}]}',
        b'{"model": "m", "split": [{"model": "b", "share": 0.6}, {"model": "c", "share": 0.6}]}',
        b'{"model": "m", "split": [{"model": "m", "share": 0.6}]}',
        b'{"model": "m", "fallbacks": ["b", "b"]}',
        b'{"model": "m", "fallbacks": [""]}',
        b'{"model": "m", "shadows": [{"model": "b", "share": "NaN"}]}',
        b'{"model": "m", "fallback_after": 0}',
        b"nothing",
    ],
)
def test_what_is_no_alias_is_refused(value: bytes) -> None:
    with pytest.raises(MeshError):
        decode_alias(value)


def test_names_are_listed_while_a_model_that_they_stand_for_is_served() -> None:
    offers = [Offer("m", 5, 100, "", set()), Offer("lora", 6, 100, "m", set())]
    names = [("gone", Alias(model="x")), ("gpt", Alias(model="m")), ("late", Alias(model="x", fallbacks=["lora"]))]
    found = {offer.name: offer.alias_of for offer in listed(offers, names)}
    assert found == {"gpt": "m", "late": "lora", "lora": "", "m": ""}
