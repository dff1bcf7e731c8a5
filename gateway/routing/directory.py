"""Who is there: a mirror of the registry with a session for each worker.

Fail static: a worker that vanishes from the registry stays in use for a grace period while its session is up, since the
session is the better witness; one that said it drains is left at once. A registry that is down removes nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.routing import clock
from gateway.routing.pace import StallLimits
from gateway.routing.session import Dial, Session, dialler
from mesh.errors import ErrorKind, MeshError, unsupported
from mesh.log import kv
from mesh.metrics import GatewayMetrics
from mesh.v1 import inference_pb2 as pb
from mesh.v1.registry_pb2 import WORKER_STATE_DRAINING, ServedModel, WorkerRecord

log = logging.getLogger(__name__)

_TICK_SECONDS = 0.1
_STATES = ("connecting", "ready", "frozen", "draining")


@dataclass(slots=True)
class Offer:
    """A model that the mesh serves: since when, in seconds since 1970; the shortest context of its workers in tokens,
    None if nobody knows; the model that it adapts, or empty."""

    name: str
    created: int
    context_length: int | None
    base: str


@dataclass(slots=True, eq=False)
class Entry:
    """A worker: what it says of itself, its session, and since when the registry does not list it any more."""

    record: WorkerRecord
    session: Session
    task: asyncio.Task[None]
    models: dict[str, ServedModel] = field(default_factory=dict[str, ServedModel])
    vanished_at: float | None = None


class Directory:
    """The workers by id. `run` must be running; all methods are called on its event loop."""

    def __init__(
        self, *, client: str, grace: float, limits: StallLimits, metrics: GatewayMetrics, dial: Dial | None = None
    ) -> None:
        self.loaded = False
        self._client = client
        self._dial = dial or dialler(None)
        self._grace = grace
        self._limits = limits
        self._metrics = metrics
        self._entries: dict[str, Entry] = {}
        # Replaced or removed, but with streams that may end in place.
        self._leaving: list[Entry] = []
        self._known: set[str] = set()
        self._change = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Own the sessions and watch over them until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await self._watch()
            finally:
                self._group = None
                for entry in (*self._entries.values(), *self._leaving):
                    entry.task.cancel()

    # The registry's news

    def on_worker(self, worker_id: str, record: WorkerRecord | None) -> None:
        """A worker appeared, changed, or vanished (None)."""
        entry = self._entries.get(worker_id)
        if record is None:
            if entry is not None:
                self._vanished(entry)
        elif entry is None or _is_another(entry.record, record):
            if entry is not None:
                self._remove(entry, "replaced by a new incarnation")
            self._add(record)
        else:
            self._update(entry, record)
        self._changed()

    def on_state(self, connected: bool) -> None:
        """The mirror of the registry is complete, or has lost touch."""
        self.loaded = self.loaded or connected
        self._metrics.registry_connected.set(connected)
        self._changed()

    def _add(self, record: WorkerRecord) -> None:
        if self._group is None:
            raise RuntimeError("the directory does not run")
        session = Session(
            record,
            client=self._client,
            dial=self._dial,
            limits=self._limits,
            on_change=self._changed,
            on_message=self._metrics.session_messages.inc,
        )
        entry = Entry(record, session, self._group.create_task(session.run()))
        self._entries[record.worker_id] = entry
        self._update(entry, record)
        log.info("worker appeared", extra=kv(worker=record.worker_id, models=sorted(entry.models)))

    def _update(self, entry: Entry, record: WorkerRecord) -> None:
        before = entry.models.keys()
        entry.record = record
        entry.vanished_at = None
        entry.models = {model.name: model for model in record.models}
        self._known.update(entry.models)
        if gone := before - entry.models.keys():
            # Let go by a worker that is there, as an adapter is: there is no hope for it, unless others have it.
            self._known -= gone.difference(*(other.models for other in self._entries.values()))
        if record.state == WORKER_STATE_DRAINING:
            entry.session.stop_routing()

    def _vanished(self, entry: Entry) -> None:
        if entry.record.state == WORKER_STATE_DRAINING or entry.session.draining or not self._grace:
            self._remove(entry, "it left")
        else:
            entry.vanished_at = clock.now()
            log.warning(
                "worker vanished from the registry, kept while it answers",
                extra=kv(worker=entry.record.worker_id, seconds=self._grace),
            )

    def _remove(self, entry: Entry, why: str) -> None:
        del self._entries[entry.record.worker_id]
        self._leaving.append(entry)
        entry.session.retire()
        log.info("worker removed", extra=kv(worker=entry.record.worker_id, why=why))

    # The watch

    async def _watch(self) -> None:
        before = clock.now()
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = clock.now()
            late = max(0.0, now - before - 2 * _TICK_SECONDS)
            before = now
            for entry in list(self._entries.values()):
                entry.session.tick(now, late)
                if entry.vanished_at is not None and now - entry.vanished_at > self._grace:
                    self._remove(entry, "its grace period is over")
                    self._changed()
            for entry in list(self._leaving):
                self._leave(entry, now, late)

    def _leave(self, entry: Entry, now: float, late: float) -> None:
        """Close the session of a removed worker once its last stream has ended or moved, or once it is lost."""
        entry.session.tick(now, late)
        if not len(entry.session) or not entry.session.open:
            self._leaving.remove(entry)
            entry.task.cancel()

    def _changed(self) -> None:
        self.wake()
        counts: dict[str, int] = dict.fromkeys(_STATES, 0)
        for entry in self._entries.values():
            counts[entry.session.state] += 1
        for state, count in counts.items():
            self._metrics.workers.labels(state).set(count)

    def wake(self) -> None:
        """Let all that wait for a change look again."""
        self._change.set()
        self._change = asyncio.Event()

    async def changed(self, timeout: float) -> bool:
        """Wait until a worker came, changed or left; False if none did within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._change.wait()
        except TimeoutError:
            return False
        return True

    # Questions

    def live(
        self, model: str, *, fingerprint: str = "", resumable: bool = False, capability: pb.Capability | None = None
    ) -> list[Session]:
        """Sessions of the workers that can take a request for the model now."""
        found: list[Session] = []
        for entry in self._entries.values():
            served = entry.models.get(model)
            if served is None or not entry.session.live:
                continue
            if fingerprint and served.fingerprint != fingerprint:
                continue
            if resumable and pb.CAPABILITY_RESUME not in served.capabilities:
                continue
            if capability is not None and capability not in served.capabilities:
                continue
            found.append(entry.session)
        return found

    def knows(self, model: str) -> bool:
        """Whether the model is or ever was here: a name that may label metrics."""
        return model in self._known

    def check_known(self, model: str) -> None:
        """Raise model_not_found for a model that never was here while others are; else there may be hope."""
        served = [each.name for each in self.models()]
        if model not in self._known and served:
            shown = ", ".join(served[:20]) + (", …" if len(served) > 20 else "")
            raise MeshError(
                ErrorKind.MODEL_NOT_FOUND,
                f"the model '{model[:200]}' does not exist here; served: {shown}",
                param="model",
            )

    def check_sees(self, model: str) -> None:
        """Raise unsupported for a model that is here and that no worker can show images."""
        if self.live(model) and not self.live(model, capability=pb.CAPABILITY_VISION):
            raise unsupported("messages", f"'messages' holds an image, which the model '{model[:200]}' cannot see")

    def models(self) -> list[Offer]:
        """All models of workers that are there, by name. A worker that leaves is not counted."""
        found: dict[str, Offer] = {}
        for entry in self._entries.values():
            if entry.session.draining:
                continue
            created = entry.record.started_at.seconds
            for name, served in entry.models.items():
                length = served.context_length or None
                known = found.setdefault(name, Offer(name, created, length, served.base))
                known.created = min(known.created, created)
                lengths = [each for each in (known.context_length, length) if each is not None]
                known.context_length = min(lengths, default=None)
        return sorted(found.values(), key=lambda offer: offer.name)

    def sessions(self) -> Sequence[Session]:
        """The sessions of all workers that are there."""
        return [entry.session for entry in self._entries.values()]


def _is_another(old: WorkerRecord, new: WorkerRecord) -> bool:
    """Another process, or the same one at another place: either way another session."""
    return (old.incarnation, old.address) != (new.incarnation, new.address)
