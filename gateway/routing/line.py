"""Who is next of those that wait for one model. No clock and no tasks: `queue.py` has them.

First go answers that have begun. Then priorities, lower first; a priority that had no turn for some time gets one,
though at most every other turn, so that neither a flood of urgent requests nor one of patient ones starves the other.
Among the tenants of a priority the one that has been served least goes first, and its requests in order of arrival.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from gateway.routing.fairness import Account


class Waiter(Protocol):
    """One that waits. `number` is its place among all that ever came; it keeps it when it comes back."""

    @property
    def urgent(self) -> bool:
        """Its client reads already, or it needs no room of its own."""
        ...

    @property
    def priority(self) -> int:
        """Lower is earlier."""
        ...

    @property
    def account(self) -> Account:
        """Its tenant's counter."""
        ...

    @property
    def number(self) -> int:
        """Rises with arrival."""
        ...


W = TypeVar("W", bound=Waiter)


class _Class(Generic[W]):
    """Those of one priority, by tenant. `turn_at` is when it last had a turn, or began to wait for one."""

    __slots__ = ("tenants", "turn_at")

    def __init__(self, now: float) -> None:
        self.turn_at = now
        self.tenants: dict[Account, list[W]] = {}


class Line(Generic[W]):
    """See the module. `patience`: seconds after which a priority that had no turn is given one."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._urgent: list[W] = []
        self._classes: dict[int, _Class[W]] = {}
        self._length = 0
        # Whether the last turn went to a priority out of order.
        self._spared = False

    def __len__(self) -> int:
        return self._length

    def add(self, waiter: W, now: float) -> None:
        """Take a place, or take it again."""
        if waiter.urgent:
            own = self._urgent
        else:
            group = self._classes.get(waiter.priority)
            if group is None:
                group = self._classes[waiter.priority] = _Class(now)
            own = group.tenants.setdefault(waiter.account, [])
        insort(own, waiter, key=_number)
        self._length += 1

    def remove(self, waiter: W) -> None:
        """Give up the place."""
        if waiter.urgent:
            self._urgent.remove(waiter)
        else:
            group = self._classes[waiter.priority]
            own = group.tenants[waiter.account]
            own.remove(waiter)
            if not own:
                del group.tenants[waiter.account]
            if not group.tenants:
                del self._classes[waiter.priority]
        self._length -= 1

    def served(self, waiter: W, now: float) -> None:
        """It is this one's turn: note it, and remove the waiter."""
        if not waiter.urgent:
            self._spared = waiter.priority != min(self._classes)
            self._classes[waiter.priority].turn_at = now
        self.remove(waiter)

    def accounts(self) -> Iterator[Account]:
        """The tenants of those that wait for their turn."""
        for group in self._classes.values():
            yield from group.tenants

    def order(self, now: float, *, urgent_only: bool = False) -> Iterator[W]:
        """Those that wait, the next one first. The line must not change meanwhile."""
        yield from self._urgent
        if urgent_only:
            return
        for group in self._turns(now):
            for account in sorted(group.tenants, key=_counter):
                yield from group.tenants[account]

    def ahead(self, waiter: W) -> int:
        """How many would be served before it, if all requests cost the same and nobody else came.

        While it is served its share, each other tenant of its priority is served as many requests.
        """
        count = len(self._urgent)
        for priority, group in self._classes.items():
            if priority < waiter.priority:
                count += sum(map(len, group.tenants.values()))
            elif priority == waiter.priority:
                before = sum(other.number < waiter.number for other in group.tenants.get(waiter.account, ()))
                for account, own in group.tenants.items():
                    count += before if account is waiter.account else min(len(own), before + 1)
        return count

    def _turns(self, now: float) -> list[_Class[W]]:
        groups = [self._classes[priority] for priority in sorted(self._classes)]
        if not self._spared and len(groups) > 1:
            waited = min(groups[1:], key=_turn_at)
            if now - waited.turn_at >= self._patience:
                groups.remove(waited)
                groups.insert(0, waited)
        return groups


def _number(waiter: Waiter) -> int:
    return waiter.number


def _counter(account: Account) -> float:
    return account.counter


def _turn_at(group: _Class[W]) -> float:
    return group.turn_at
