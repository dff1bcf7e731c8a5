"""Workers that fail request after request get one now and then, until they serve it; the last one gets all, as ever."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.routing import clock
from gateway.routing.session import Session
from mesh.log import kv

log = logging.getLogger(__name__)

_LONGEST_SECONDS = 300.0


@dataclass(slots=True)
class _Record:
    """Failures since the last success, the session of the last one that took all its streams, and until when nothing
    is to be sent."""

    failures: int = 0
    epoch: int = 0
    until: float = 0.0


class Outliers:
    """After so many failures in a row (`after`; 0 is never) a worker is spared for `seconds`, then for twice as long,
    up to five minutes. In between it gets one request to show that it is well. A restart changes none of it."""

    def __init__(self, *, after: int, seconds: float) -> None:
        self._after = after
        self._seconds = seconds
        self._records: dict[str, _Record] = {}

    def spared(self, sessions: Iterable[Session]) -> int:
        """How many of these failed so often that they get one request now and then."""
        records = [self._records.get(session.worker_id) for session in sessions]
        return sum(record is not None and record.failures >= self._after for record in records)

    def failed(self, session: Session, *, whole: bool) -> None:
        """An attempt there has failed; with `whole` because of the worker, which counts once for all its streams."""
        if not self._after:
            return
        record = self._records.setdefault(session.worker_id, _Record())
        if whole and record.epoch == session.epoch:
            return
        record.epoch = session.epoch if whole else record.epoch
        record.failures += 1
        if record.failures >= self._after:
            pause = self._seconds * 2.0 ** min(record.failures - self._after, 16)
            pause = min(pause, _LONGEST_SECONDS)
            record.until = clock.now() + pause
            log.warning("worker is spared", extra=kv(worker=session.worker_id, failures=record.failures, seconds=pause))

    def succeeded(self, session: Session) -> None:
        """It has served a request to its end."""
        record = self._records.pop(session.worker_id, None)
        if record is not None and record.failures >= self._after:
            log.info("worker is spared no longer", extra=kv(worker=session.worker_id))

    def spare(self, sessions: Sequence[Session]) -> Sequence[Session]:
        """Those that may be used; all if none may."""
        if not self._records:
            return sessions
        now = clock.now()
        return [session for session in sessions if self._until(session) <= now] or sessions

    def picked(self, session: Session) -> None:
        """A request goes there. If it is the one to show that the worker is well, no other follows for a while."""
        record = self._records.get(session.worker_id)
        if record is not None and record.failures >= self._after:
            record.until = max(record.until, clock.now() + self._seconds)

    def _until(self, session: Session) -> float:
        record = self._records.get(session.worker_id)
        return record.until if record is not None else 0.0
