"""What one key has used and may still use, as this gateway knows it."""

from __future__ import annotations

from typing import Protocol

from gateway.access.limits import Bucket, duration
from mesh.errors import ErrorKind, MeshError
from mesh.keys import Key, Usage

# When a request under way ends is not known.
_CONCURRENCY_RETRY_SECONDS = 1.0


class Spender(Protocol):
    """A request under way."""

    @property
    def spent(self) -> int:
        """Tokens of its prompt and answer so far."""
        ...


class Account:
    """One key. Every `now` is in seconds of one monotonic clock.

    Tokens are charged as they are made, by `collect`, and the store hears of them some time later: `own` is what this
    gateway has charged since it started, `written` what of that the store was given. What the store reports beyond that
    others have charged, before or elsewhere.
    """

    def __init__(self, key: Key, now: float, *, others: Usage | None = None) -> None:
        self.key = key
        self.own = Usage()
        self.written = Usage()
        self.others = others or Usage()
        # Requests under way on other gateways.
        self.elsewhere = 0
        self._live: dict[Spender, int] = {}
        self._requests = _bucket(key.requests_per_minute, now)
        self._tokens = _bucket(key.tokens_per_minute, now)

    @property
    def live(self) -> int:
        """Requests under way here."""
        return len(self._live)

    @property
    def used(self) -> Usage:
        """All that the key has used, as far as is known here."""
        return self.own + self.others

    @property
    def unwritten(self) -> Usage:
        """What the store has not been given yet."""
        return self.own - self.written

    def change(self, key: Key, now: float) -> None:
        """The key has other limits now."""
        if key.requests_per_minute != self.key.requests_per_minute:
            self._requests = _bucket(key.requests_per_minute, now)
        if key.tokens_per_minute != self.key.tokens_per_minute:
            self._tokens = _bucket(key.tokens_per_minute, now)
        self.key = key

    def admit(self, request: Spender, now: float) -> None:
        """Let a request begin and count it until `release`. Raises MeshError, and then nothing is counted."""
        self.collect(now)
        self._check_budget()
        self._check_concurrency()
        self._check_tokens(now)
        self._check_requests(now)
        self._live[request] = 0
        self._charge(Usage(requests=1), now)

    def take_over(self, request: Spender) -> None:
        """Count a request that another gateway has let begin, until `release`."""
        self._live[request] = 0

    def release(self, request: Spender, now: float) -> None:
        """The request has ended."""
        if request in self._live:
            self.collect(now)
            del self._live[request]

    def collect(self, now: float) -> None:
        """Charge the tokens that requests under way have used since the last time."""
        for request, charged in self._live.items():
            spent = request.spent
            if spent > charged:
                self._live[request] = spent
                self._charge(Usage(tokens=spent - charged), now)

    def reported(self, total: Usage, now: float) -> None:
        """The store's total, which may lag behind what it was given: it lets `others` grow only."""
        others = total - self.written
        gain = Usage(max(0, others.requests - self.others.requests), max(0, others.tokens - self.others.tokens))
        self.others += gain
        self._take(gain, now)

    def headers(self, now: float) -> dict[str, str]:
        """The limits and what is left of them, under the names that OpenAI's clients read."""
        self.collect(now)
        found: dict[str, str] = {}
        for name, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            if bucket is not None:
                found[f"x-ratelimit-limit-{name}"] = str(bucket.limit)
                found[f"x-ratelimit-remaining-{name}"] = str(bucket.remaining(now))
                found[f"x-ratelimit-reset-{name}"] = duration(bucket.full_in(now))
        return found

    def _charge(self, usage: Usage, now: float) -> None:
        self.own += usage
        self._take(usage, now)

    def _take(self, usage: Usage, now: float) -> None:
        if self._requests is not None and usage.requests:
            self._requests.take(usage.requests, now)
        if self._tokens is not None and usage.tokens:
            self._tokens.take(usage.tokens, now)

    def _check_budget(self) -> None:
        budget, used = self.key.token_budget, self.used.tokens
        if budget is not None and used >= budget:
            text = f"this key has used its budget: {used} of {budget} tokens"
            raise MeshError(ErrorKind.INSUFFICIENT_QUOTA, text)

    def _check_concurrency(self) -> None:
        limit, under_way = self.key.concurrency, self.live + self.elsewhere
        if limit is not None and under_way >= limit:
            text = f"this key may have {limit} requests under way at a time, and has {under_way}"
            raise MeshError(ErrorKind.RATE_LIMIT_EXCEEDED, text, retry_after=_CONCURRENCY_RETRY_SECONDS)

    def _check_tokens(self, now: float) -> None:
        # Whatever is left is enough for a request to begin: how many tokens it takes is known when it has ended.
        if self._tokens is not None:
            _check("tokens", "use", self._tokens, now)

    def _check_requests(self, now: float) -> None:
        if self._requests is not None:
            _check("requests", "make", self._requests, now)


def _bucket(limit: int | None, now: float) -> Bucket | None:
    return None if limit is None else Bucket(limit, now)


def _check(what: str, verb: str, bucket: Bucket, now: float) -> None:
    wait = bucket.wait(1, now)
    if wait > 0:
        text = f"this key may {verb} {bucket.limit} {what} a minute; there is room again in {duration(wait)}"
        raise MeshError(ErrorKind.RATE_LIMIT_EXCEEDED, text, retry_after=wait)
