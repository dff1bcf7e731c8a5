"""Pages: given out once, shared by digest, taken again least recently used first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.engine.transformers.scheduling.blocks import BlockManager, extend_digests, page_digest, scope_digest

ROOT = scope_digest("test")


def digests_of(tokens: list[int], size: int = 4, root: bytes = ROOT) -> list[bytes]:
    digests: list[bytes] = []
    extend_digests(digests, root, tokens, size, len(tokens))
    return digests


def filled(blocks: BlockManager, digests: list[bytes]) -> list[int]:
    """Pages held by a row that has computed the tokens behind `digests`."""
    pages = blocks.allocate(len(digests))
    assert pages is not None
    for page, digest in zip(pages, digests, strict=True):
        blocks.register(page, digest)
    return pages


def test_page_zero_is_never_given_out() -> None:
    blocks = BlockManager(5, 4)
    pages = blocks.allocate(4)
    assert pages is not None
    assert sorted(pages) == [1, 2, 3, 4]
    assert blocks.allocate(1) is None
    blocks.release(pages)
    assert (blocks.used, blocks.available, blocks.cached) == (0, 4, 0)


def test_digests_depend_on_everything_before_and_on_the_scope() -> None:
    tokens = list(range(12))
    first = digests_of(tokens)
    assert len(first) == 3
    assert digests_of(tokens[:11]) == first[:2]
    assert digests_of([99, *tokens[1:]])[1] != first[1]
    assert not set(digests_of(tokens, root=scope_digest("te", "st"))) & set(first)
    assert scope_digest("ab", "c") != scope_digest("a", "bc")
    assert page_digest(ROOT, [1, 2]) != page_digest(ROOT, [1, 2, 0])


def test_digests_grow_with_the_row() -> None:
    tokens = list(range(40))
    digests: list[bytes] = []
    for upto in range(41):
        extend_digests(digests, ROOT, tokens, 4, upto)
    assert digests == digests_of(tokens)


def test_released_pages_are_found_again() -> None:
    blocks = BlockManager(9, 4)
    digests = digests_of(list(range(12)))
    pages = filled(blocks, digests)
    blocks.release(pages)
    assert (blocks.used, blocks.cached) == (0, 3)
    assert blocks.lookup([*digests[:2], b"other"]) == 2
    assert blocks.cached_among(digests[:2]) == 2
    assert blocks.share(digests[:2]) == pages[:2]
    assert (blocks.used, blocks.cached, blocks.cached_among(digests[:2])) == (2, 1, 0)
    blocks.share(digests[:1])
    blocks.release(pages[:2])
    assert blocks.used == 1


def test_the_least_recently_used_page_goes_first_and_the_end_of_a_prefix_before_its_beginning() -> None:
    blocks = BlockManager(7, 4)
    old, new = digests_of(list(range(12))), digests_of(list(range(50, 62)))
    old_pages, new_pages = filled(blocks, old), filled(blocks, new)
    blocks.release(old_pages)
    blocks.release(new_pages)
    blocks.release(blocks.share(old[:1]))  # used once more: now the youngest
    taken = blocks.allocate(2)
    assert taken == [old_pages[2], old_pages[1]]
    assert blocks.lookup(old) == 1
    assert blocks.lookup(new) == 3


def test_a_twin_is_not_registered_twice() -> None:
    blocks = BlockManager(9, 4)
    digests = digests_of(list(range(4)))
    first, second = filled(blocks, digests), filled(blocks, digests)
    blocks.release(second)
    assert blocks.cached == 0
    assert blocks.share(digests) == first


def test_distrusted_pages_are_reported_when_given_out_again() -> None:
    blocks = BlockManager(4, 4)
    digests = digests_of(list(range(8)))
    pages = filled(blocks, digests)
    blocks.distrust(pages, forget=True)
    blocks.release(pages)
    assert blocks.lookup(digests) == 0
    assert blocks.take_stale() == []
    again = blocks.allocate(3)
    assert again is not None
    assert sorted(blocks.take_stale()) == sorted(pages)
    blocks.release(again)
    blocks.allocate(3)
    assert blocks.take_stale() == []


def test_clear_forgets_cached_pages() -> None:
    blocks = BlockManager(5, 4)
    digests = digests_of(list(range(16)))
    blocks.release(filled(blocks, digests))
    blocks.clear()
    assert (blocks.cached, blocks.available, blocks.lookup(digests)) == (0, 4, 0)


@given(st.lists(st.tuples(st.sampled_from(["take", "share", "drop"]), st.integers(0, 7)), max_size=60))
def test_no_page_is_lost_or_held_twice(actions: list[tuple[str, int]]) -> None:
    blocks = BlockManager(10, 2)
    chains = [digests_of([index, 1, index, 2, index, 3], size=2) for index in range(3)]
    held: list[list[int]] = []
    for action, number in actions:
        if action == "take":
            pages = blocks.allocate(number % 4)
            if pages is not None:
                fresh = [page for row in held for page in row]
                assert not set(pages) & set(fresh)
                for page, digest in zip(pages, chains[number % 3], strict=False):
                    blocks.register(page, digest)
                held.append(pages)
        elif action == "share":
            chain = chains[number % 3]
            held.append(blocks.share(chain[: blocks.lookup(chain)]))
        elif held:
            blocks.release(held.pop(number % len(held)))
        assert blocks.used == len({page for row in held for page in row})
        assert blocks.used + blocks.available == blocks.total
    for row in held:
        blocks.release(row)
    assert blocks.used == 0
