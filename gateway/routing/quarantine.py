"""Requests that kill workers: found out by the workers that die under them, and then refused instead of handed on.

When a worker dies or freezes, everything on it is a suspect, the innocent too. Hence:

- A request gets a strike for each worker that died while it was there. The strike is void once the same process is
  back: then only the connection was lost.
- A few tokens of a new attempt clear it of all strikes. What is resumed is computed exactly as before, so what killed
  one worker would have killed the next one at the same place.
- With so many strikes as are allowed it is refused, if it was the only one on the worker with as many before, and no
  other gateway had rows there; with rows of other gateways, which cannot be told apart, after one more strike.
- Otherwise it goes on alone: on a worker without another such request. What dies there is its doing, and what does not
  clears it.

The same for requests with one answer, such as those to embed; of these the answer alone clears them.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

from gateway.routing import clock
from gateway.routing.directory import Directory
from gateway.routing.prefix import Request
from gateway.routing.session import Session
from gateway.routing.suspects import Call, Suspect
from mesh.errors import ErrorKind, MeshError
from mesh.v1 import inference_pb2 as pb

# Tokens of an attempt that clear a request.
PROVEN_TOKENS = 8
# How long to wait for news of a worker whose connection was lost; a dead process refuses the next one at once.
_VERDICT_SECONDS = 6.0
# How much later than a call the session that it was made on can be known to be lost.
_NEWS_SECONDS = 0.5
# Contents that are remembered, the newest.
_MOST_CONTENTS = 10_000


class Quarantine:
    """What is refused: contents, for `seconds` after they have killed `after` workers; 0 refuses nothing."""

    def __init__(self, *, after: int, seconds: float) -> None:
        self.after = after
        self.seconds = seconds
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def check(self, request: Request) -> None:
        """Raise request_quarantined if this content is refused now."""
        if self._until and self._until.get(_content(request), 0.0) > clock.now():
            raise MeshError(
                ErrorKind.QUARANTINED,
                f"a request with this content has killed {self.after} workers, and is refused for {self.seconds:g} s",
            )

    def add(self, request: Request) -> None:
        """Refuse this content from now on."""
        self._until[_content(request)] = clock.now() + self.seconds
        while len(self._until) > _MOST_CONTENTS:
            self._until.popitem(last=False)


# What differs between two requests with the same content.
_OWN = frozenset(
    (
        *("request_id", "tenant", "priority", "attempt", "cache_salt", "deadline_ms", "expected_fingerprint"),
        "traceparent",
    )
)


def _content(request: Request) -> bytes:
    """What two requests have in common that do the same to a worker: a hash."""
    same = deepcopy(request)
    for name in _OWN.intersection(same.DESCRIPTOR.fields_by_name):
        same.ClearField(name)  # pyright: ignore[reportArgumentType]  # each has its own names
    if isinstance(same, pb.GenerateRequest) and same.sampling.drawn_seed:
        same.sampling.ClearField("seed")
    kind = same.DESCRIPTOR.name.encode()
    return hashlib.blake2b(same.SerializeToString(deterministic=True), digest_size=16, key=kind).digest()


@dataclass(frozen=True, slots=True)
class _Strike:
    """A worker died, or so it seemed, with a request there. `alone`: nobody else can have done it."""

    session: Session
    epoch: int
    alone: bool
    foreign: bool

    @property
    def void(self) -> bool:
        """The process is there: it has connected again, or steps again."""
        return self.session.epoch != self.epoch or self.session.live

    @property
    def settled(self) -> bool:
        """Whether it is known what became of the worker."""
        return self.void or self.session.open or self.session.gone


class Suspicion:
    """The strikes of one request."""

    def __init__(self, request: Request, quarantine: Quarantine, directory: Directory) -> None:
        self._request = request
        self._quarantine = quarantine
        self._directory = directory
        self._strikes: list[_Strike] = []

    @property
    def count(self) -> int:
        """Strikes that are not void."""
        return sum(not strike.void for strike in self._strikes)

    def strike(self, session: Session, epoch: int, one: Suspect) -> None:
        """The worker died or froze in this epoch of its session, with the request there as this one."""
        if self._quarantine.after:
            alone = not session.rivals(one)
            self._strikes.append(_Strike(session, epoch, alone, session.had_foreign_rows))

    async def call_lost(self, session: Session, call: Call) -> None:
        """A call of the request was lost: a strike, if its worker was lost, too. Waits for a moment to know."""
        if not self._quarantine.after or not call.id:
            return
        epoch, until = session.epoch, clock.now() + _NEWS_SECONDS
        while session.epoch == epoch and session.open and (left := until - clock.now()) > 0:
            if not await self._directory.changed(self._request.model, left):
                break
        self.strike(session, epoch, call)

    def clear(self) -> None:
        """The request has come further than where the worker died."""
        if self._strikes:
            self._strikes.clear()
            self._directory.wake(self._request.model)  # those that must be alone may have waited for this

    async def judge(self) -> None:
        """Before another attempt. Raises request_quarantined if the request is not to be given to one more worker."""
        if not self._quarantine.after or len(self._strikes) < self._quarantine.after:
            return
        deadline = clock.now() + _VERDICT_SECONDS
        while not all(strike.settled for strike in self._strikes):
            left = deadline - clock.now()
            if left <= 0 or not await self._directory.changed(self._request.model, left):
                break
        held = [strike for strike in self._strikes if not strike.void]
        if not held or not held[-1].alone or len(held) < self._quarantine.after + held[-1].foreign:
            return
        self._quarantine.add(self._request)
        workers = ", ".join(f"'{strike.session.worker_id}'" for strike in held)
        raise MeshError(
            ErrorKind.QUARANTINED,
            f"{len(held)} workers died with this request ({workers}), and it is not given to another one; "
            f"its content is refused for {self._quarantine.seconds:g} s",
        )

    def places(self, live: Sequence[Session]) -> Sequence[Session]:
        """Of the live workers, those that it may go to: a request that must be alone, to none with such a one."""
        after = self._quarantine.after
        if not after or self.count < after:
            return live
        return [session for session in live if not session.has_suspect(after)]
