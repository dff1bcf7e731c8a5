"""Pages of the KV cache: who holds them, which of them hold a known prefix, and which may be taken.

A page is in one of three states: held by rows (reference count above zero), cached (no holder, but its content is
known by a digest and may be found again; taken least recently used first), or free. Page 0 is never given out:
padding reads it.

A digest names the tokens of a page and of all pages before it, and the scope they may be shared in, so that equal
digests mean equal KV entries.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b

_DIGEST_BYTES = 16


def scope_digest(*parts: str) -> bytes:
    """The root of a digest chain: pages are shared only between rows whose roots are equal."""
    state = blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        # With its length, so that ("ab", "c") and ("a", "bc") differ.
        state.update(len(data).to_bytes(8, "little") + data)
    return state.digest()


def page_digest(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The digest of `tokens`, a page's or its first ones, that follow the page, or root, `parent`."""
    return blake2b(array("q", tokens).tobytes(), digest_size=_DIGEST_BYTES, key=parent).digest()


def extend_digests(digests: list[bytes], root: bytes, tokens: Sequence[int], page_size: int, upto: int) -> None:
    """Append the digests of the full pages within the first `upto` tokens to those already in `digests`."""
    for page in range(len(digests), upto // page_size):
        parent = digests[-1] if digests else root
        digests.append(page_digest(parent, tokens[page * page_size : (page + 1) * page_size]))


class BlockManager:
    """Gives out pages and takes them back. Not thread-safe: the engine's thread owns it.

    `pages` counts page 0, so `pages - 1` can be held at once.
    """

    def __init__(self, pages: int, page_size: int) -> None:
        if pages < 2:
            raise ValueError(f"a KV cache needs at least 2 pages, not {pages}")
        self.page_size = page_size
        self.total = pages - 1
        self._holders = [0] * pages
        self._digest: list[bytes | None] = [None] * pages
        self._by_digest: dict[bytes, int] = {}
        # Last page first out, so low numbers are used first: a small load touches little memory.
        self._free = list(range(pages - 1, 0, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._suspects: set[int] = set()
        self._stale: list[int] = []

    @property
    def available(self) -> int:
        """Pages that `allocate` could give out now."""
        return len(self._free) + len(self._cached)

    @property
    def cached(self) -> int:
        """Pages without a holder whose content may be found again."""
        return len(self._cached)

    @property
    def used(self) -> int:
        """Pages held by rows."""
        return self.total - self.available

    def pages_for(self, tokens: int) -> int:
        """Pages that hold this many tokens."""
        return -(-tokens // self.page_size)

    def allocate(self, count: int) -> list[int] | None:
        """`count` pages with one holder and unknown content, or None when there are fewer."""
        if count > self.available:
            return None
        return [self._take() for _ in range(count)]

    def _take(self) -> int:
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._cached.popitem(last=False)
            self._forget(page)
        self._holders[page] = 1
        if page in self._suspects:
            self._suspects.remove(page)
            self._stale.append(page)
        return page

    def release(self, pages: Sequence[int]) -> None:
        """Drop one holder of each page. `pages` are in the order of their tokens: the last are taken again first."""
        for page in reversed(pages):
            self._holders[page] -= 1
            if self._holders[page]:
                continue
            if self._digest[page] is None:
                self._free.append(page)
            else:
                self._cached[page] = None

    def lookup(self, digests: Iterable[bytes]) -> int:
        """How many leading pages of a digest chain are known."""
        known = 0
        for digest in digests:
            if digest not in self._by_digest:
                break
            known += 1
        return known

    def share(self, digests: Sequence[bytes]) -> list[int]:
        """Add a holder to the pages of `digests`, which `lookup` has found, and return them."""
        pages = [self._by_digest[digest] for digest in digests]
        for page in pages:
            if not self._holders[page]:
                del self._cached[page]
            self._holders[page] += 1
        return pages

    def cached_among(self, digests: Sequence[bytes]) -> int:
        """How many of these known pages have no holder: sharing them makes that many fewer available."""
        return sum(not self._holders[self._by_digest[digest]] for digest in digests)

    def register(self, page: int, digest: bytes) -> None:
        """Make a held page findable. The first page with a digest stays; a twin is freed when released.

        A page that was known by a beginning of its content is known by the whole of it from now on.
        """
        if digest not in self._by_digest:
            self._forget(page)
            self._digest[page] = digest
            self._by_digest[digest] = page

    def distrust(self, pages: Iterable[int], *, forget: bool) -> None:
        """Note that pages may hold numbers that are not finite, which would spoil the next row that gets them.

        With `forget` they cannot be found any more either.
        """
        for page in pages:
            self._suspects.add(page)
            if forget:
                self._forget(page)

    def take_stale(self) -> list[int]:
        """The distrusted pages that were given out since the last call: to be wiped before they are used."""
        stale, self._stale = self._stale, []
        return stale

    def clear(self) -> None:
        """Forget the content of all pages without a holder."""
        for page in self._cached:
            self._forget(page)
        self._free.extend(self._cached)
        self._cached.clear()

    def _forget(self, page: int) -> None:
        digest = self._digest[page]
        if digest is not None:
            self._digest[page] = None
            del self._by_digest[digest]
