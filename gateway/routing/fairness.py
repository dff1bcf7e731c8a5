"""Virtual token counters: who among several tenants has had least of a model, and is therefore next.

After "Fairness in Serving Large Language Models" (Sheng et al., OSDI 2024, arXiv 2401.00588). Each tenant has a counter
of the tokens that it was served, prompt and output each with a weight, divided by the tenant's own weight. The tenant
with the lowest counter goes first. One that comes back after a while is lifted to the level of those that are there, so
that nobody saves up a right to service. What a request will cost is not known when it begins, so the mean of earlier
requests is charged ahead and settled at its end: otherwise all free places of a moment would go to the same tenant.
"""

from __future__ import annotations

from collections.abc import Iterable

# As in the paper: an output token takes a step of its own, many prompt tokens share one.
PROMPT_WEIGHT = 1.0
OUTPUT_WEIGHT = 2.0

# Weight of the newest request in the mean cost.
_NEWEST = 0.1
# Tenants with nothing under way whose counters are kept.
_KEPT = 10_000


class Account:
    """A tenant's counter for one model, in weighted tokens, and its requests that have not ended."""

    __slots__ = ("counter", "open", "tenant", "weight")

    def __init__(self, tenant: str, weight: float) -> None:
        self.tenant = tenant
        self.weight = weight
        self.counter = 0.0
        self.open = 0


class Bill:
    """What one request has cost its tenant. `close` it."""

    __slots__ = ("_ledger", "_paid", "_used", "account")

    def __init__(self, ledger: Ledger, account: Account) -> None:
        self.account = account
        self._ledger = ledger
        self._paid = 0.0
        self._used = 0.0
        account.open += 1

    def begin(self) -> None:
        """A worker was asked: charge ahead what requests cost in the mean."""
        if not self._paid:
            self._pay(self._ledger.mean)
        self._ledger.last = self.account

    def use(self, tokens: float) -> None:
        """The request was served so many weighted tokens."""
        self._used += tokens
        due = self._used - self._paid
        if due > 0:  # as `_pay`, for each token
            self._paid = self._used
            self.account.counter += due / self.account.weight

    def refund(self) -> None:
        """The worker refused: what was not used is given back."""
        self._pay(self._used - self._paid)

    def close(self) -> None:
        """The end of the request, complete or not."""
        if self._used:
            self._ledger.mean += _NEWEST * (self._used - self._ledger.mean)
        self.refund()
        self._ledger.release(self.account)

    def _pay(self, tokens: float) -> None:
        self._paid += tokens
        self.account.counter += tokens / self.account.weight


class Ledger:
    """The accounts of all tenants of one model. `mean` is what a request costs, `last` the tenant served last."""

    def __init__(self) -> None:
        self.mean = 1.0
        self.last: Account | None = None
        self._accounts: dict[str, Account] = {}

    def __len__(self) -> int:
        return len(self._accounts)

    def open(self, tenant: str, weight: float, waiting: Iterable[Account]) -> Bill:
        """The bill of a new request, beside tenants that are `waiting`: their lowest counter, or that of the tenant
        served last if none waits, is the least that the tenant's own is lifted to."""
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = Account(tenant, weight)
        account.weight = weight
        level = min((other.counter for other in waiting), default=self.last.counter if self.last is not None else 0.0)
        account.counter = max(account.counter, level)
        return Bill(self, account)

    def release(self, account: Account) -> None:
        """A request of the account has ended."""
        account.open -= 1
        if not account.open and len(self._accounts) > _KEPT:
            del self._accounts[account.tenant]
