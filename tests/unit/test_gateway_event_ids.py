"""Event ids: what they say, to whom they belong, and what a client gets that comes back with one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import Headers

from gateway.reconnect import EventId, Reconnect
from gateway.routing.keeping import NOWHERE, tag
from mesh.errors import MeshError
from mesh.v1 import inference_pb2 as pb

STARTED = pb.Started(fingerprint="sha256:abc", cached_tokens=3)
# Choices of events, in the order in which they are sent.
ORDERS = st.lists(st.integers(0, 2), max_size=12)


def reconnect(
    last: str = "",
    *,
    tenant: str = "t",
    path: str = "/v1/chat/completions",
    body: bytes = b"{}",
    more: Sequence[bytes] = (b"image",),
) -> Reconnect:
    headers = Headers({"x-mesh-reconnect": "1"})
    if last:
        headers["last-event-id"] = last
    return Reconnect.of(headers, stream=True, tenant=tenant, path=path, body=body, more=more)


def send(wish: Reconnect, order: Sequence[int], *, tail: int = 2) -> list[str]:
    """The ids of the events that a client gets of an answer with events in this order, and some after all."""
    ids = wish.ids(3)
    assert ids is not None
    ids.at(tag("worker"))
    cached = 3 if wish.after is None else 9
    ids.begin(pb.Started(fingerprint=STARTED.fingerprint, prompt_tokens=9, cached_tokens=cached))
    counts = [0, 0, 0]
    lines: list[bytes | None] = []
    for choice in order:
        lines.append(ids.next(choice, b"%d of %d" % (counts[choice], choice)))
        counts[choice] += 1
    lines += [ids.next_of_all() for _ in range(tail)]
    return [line.decode().removeprefix("id: ").removesuffix("\n") for line in lines if line is not None]


@given(ORDERS, st.data())
def test_whatever_the_order_a_client_gets_what_it_lacks(order: list[int], data: st.DataObject):
    first = reconnect()
    whole = send(first, order)
    cut = data.draw(st.integers(1, len(whole)))
    again = data.draw(st.permutations(order))  # other steps, but each choice in order
    rest = send(reconnect(whole[cut - 1]), again)
    assert len(rest) == len(whole) - cut
    assert (rest or whole)[-1] == whole[-1]
    assert reconnect(whole[-1]).complete(include_usage=True)
    assert not reconnect(whole[-2]).complete(include_usage=True) if cut < len(whole) else True


def test_an_id_says_where_to_go_on():
    wish = reconnect()
    [id_] = send(wish, [0], tail=0)
    found = EventId.parse(id_)
    assert (found.facts.identity, found.facts.cached_tokens) == (wish.identity, 3)
    assert (found.facts.model, found.worker) == (tag(STARTED.fingerprint), tag("worker"))
    back = reconnect(id_)
    assert (back.identity, back.key) == (wish.identity, wish.key)
    keeping = back.keeping(30, alone=True)
    assert keeping is not None
    assert (keeping.key, keeping.model, keeping.worker) == (wish.key, found.facts.model, found.worker)


def test_several_generations_are_not_kept():
    assert reconnect().keeping(0, alone=True).key is None  # pyright: ignore[reportOptionalMemberAccess]
    keeping = reconnect().keeping(30, alone=False)
    assert keeping is not None
    assert (keeping.key, keeping.worker) == (None, NOWHERE)


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "another"},
        {"path": "/v1/completions"},
        {"body": b"{ }"},
        {"more": (b"another",)},
        {"more": ()},
        {"body": b"{}im", "more": (b"age",)},
    ],
    ids=["tenant", "path", "body", "image", "no image", "another border"],
)
def test_an_id_belongs_to_one_request_of_one_tenant(other: dict[str, str]):
    [id_] = send(reconnect(), [0], tail=0)
    with pytest.raises(MeshError, match="does not belong to this request"):
        reconnect(id_, **other)  # pyright: ignore[reportArgumentType]


def test_the_facts_of_an_id_cannot_be_changed_except_where_to_look_first():
    [id_] = send(reconnect(), [0], tail=0)
    accepted: list[int] = []
    for place in range(60):
        try:
            reconnect(id_[:place] + ("A" if id_[place] != "A" else "B") + id_[place + 1 :])
            accepted.append(place)
        except MeshError:
            pass
    assert set(accepted) <= set(range(41, 50))  # the worker's tag: nothing is there, or it is this very answer


def test_seeds_follow_from_the_answer_and_the_prompt():
    identity = reconnect().identity
    seeds = [identity.seed(prompt) for prompt in range(100)]
    assert len(set(seeds)) == 100
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seeds == [identity.seed(prompt) for prompt in range(100)]
    assert reconnect().identity.seed() != identity.seed()


def test_an_id_that_a_client_wrote_itself_does_not_claim_more_cached_tokens_than_the_prompt_has() -> None:
    first = reconnect()
    ids = first.ids(1)
    assert ids is not None
    ids.begin(pb.Started(fingerprint="f", prompt_tokens=9, cached_tokens=2**32 - 1))
    line = ids.next(0)
    assert line is not None
    again = reconnect(line.decode().removeprefix("id: ").strip()).ids(1)
    assert again is not None
    started = pb.Started(fingerprint="f", prompt_tokens=9, cached_tokens=4)
    again.begin(started)
    assert started.cached_tokens == 9
