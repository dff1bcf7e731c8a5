"""Who is there: a mirror of the registry with a session for each worker.

Fail static: a worker that vanishes from the registry stays in use for a grace period while its session is up, since the
session is the better witness; one that said it drains is left at once. A registry that is down removes nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from gateway.routing import clock
from gateway.routing.capability import refusal
from gateway.routing.keeping import tag
from gateway.routing.pace import StallLimits
from gateway.routing.session import Session
from mesh.dial import Dial, dialler
from mesh.errors import ErrorKind, MeshError, unsupported
from mesh.join import JoinToken
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
    None if nobody knows; the model that it adapts, or empty; what one of its workers at least can do; the model that
    its name stands for, or empty."""

    name: str
    created: int
    context_length: int | None
    base: str
    capabilities: set[int]
    alias_of: str = ""


@dataclass(slots=True, eq=False)
class Entry:
    """A worker: what it says of itself, its session, and since when the registry does not list it any more."""

    record: WorkerRecord
    session: Session
    task: asyncio.Task[None]
    models: dict[str, ServedModel] = field(default_factory=dict[str, ServedModel])
    vanished_at: float | None = None


@dataclass(slots=True, eq=False)
class _Model:
    """A model that is or was here: who serves it, and who can take a request for it now, by what it asks for.

    With a thousand workers the registry has news some hundred times a second. Each concerns the models of one worker:
    the answers for other models stay, and who waits for another model is not woken.
    """

    entries: dict[str, Entry] = field(default_factory=dict[str, Entry])
    live: dict[_Asked, list[Session]] = field(default_factory=dict["_Asked", "list[Session]"])
    change: asyncio.Event = field(default_factory=asyncio.Event)

    def touch(self) -> None:
        """Something about its workers is new: let all that wait look again."""
        self.live.clear()
        self.change.set()
        self.change = asyncio.Event()


# A fingerprint or empty, and capabilities.
_Asked = tuple[str, frozenset[pb.Capability]]


class Directory:
    """The workers by id. `run` must be running; all methods are called on its event loop."""

    def __init__(
        self,
        *,
        client: str,
        grace: float,
        limits: StallLimits,
        metrics: GatewayMetrics,
        dial: Dial | None = None,
        join: JoinToken | None = None,
    ) -> None:
        self.loaded = False
        self._client = client
        self._dial = dial or dialler(None, join)
        self._join = join
        self._grace = grace
        self._limits = limits
        self._metrics = metrics
        self._entries: dict[str, Entry] = {}
        # Replaced or removed, but with streams that may end in place.
        self._leaving: list[Entry] = []
        self._models: dict[str, _Model] = {}
        self._on_news: Callable[[str | None], None] = lambda _: None
        self._on_load: Callable[[Session], None] = lambda _: None
        self._group: asyncio.TaskGroup | None = None
        self._live_until: float | None = None  # when the registry was lost sight of
        metrics.registry_age.set_function(self._registry_age)
        for state in _STATES:
            metrics.workers.labels(state).set_function(partial(self._count, state))

    def watch(self, on_news: Callable[[str | None], None], on_load: Callable[[Session], None]) -> None:
        """Tell somebody that something about the workers of a model is new, or, some times a second, that something may
        be (None); and that a worker has reported its load."""
        self._on_news = on_news
        self._on_load = on_load

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

    def on_state(self, connected: bool) -> None:
        """The mirror of the registry is complete, or has lost touch."""
        self.loaded = self.loaded or connected
        self._metrics.registry_connected.set(connected)
        if connected:
            self._live_until = None
        elif self._live_until is None:
            self._live_until = clock.now()

    def _registry_age(self) -> float:
        return 0.0 if self._live_until is None else clock.now() - self._live_until

    def _add(self, record: WorkerRecord) -> None:
        if self._group is None:
            raise RuntimeError("the directory does not run")
        session = Session(
            record,
            client=self._client,
            dial=self._dial,
            join=self._join,
            limits=self._limits,
            on_change=partial(self._session_changed, record.worker_id),
            on_message=self._metrics.session_messages.inc,
            on_load=lambda session: self._on_load(session),
        )
        entry = Entry(record, session, self._group.create_task(session.run()))
        self._entries[record.worker_id] = entry
        self._update(entry, record)
        log.info("worker appeared", extra=kv(worker=record.worker_id, models=sorted(entry.models)))

    def _update(self, entry: Entry, record: WorkerRecord) -> None:
        before, entry.models = entry.models, {model.name: model for model in record.models}
        drained = entry.record.state == WORKER_STATE_DRAINING
        entry.session.models = entry.models
        entry.record = record
        entry.vanished_at = None
        for name in before.keys() - entry.models.keys():
            self._let_go(entry, name)
        for name in entry.models:
            self._model(name).entries[record.worker_id] = entry
        self._touch(entry)
        if record.state == WORKER_STATE_DRAINING:
            entry.session.stop_routing()
        elif drained:
            entry.session.resume_routing()

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
        for name in entry.models:
            del self._models[name].entries[entry.record.worker_id]
        self._touch(entry)
        self._leaving.append(entry)
        entry.session.retire()
        log.info("worker removed", extra=kv(worker=entry.record.worker_id, why=why))

    # The models

    def _model(self, name: str) -> _Model:
        model = self._models.get(name)
        if model is None:
            model = self._models[name] = _Model()
        return model

    def _let_go(self, entry: Entry, name: str) -> None:
        """Let go by a worker that is there, as an adapter is: there is no hope for it, unless others have it."""
        model = self._models[name]
        del model.entries[entry.record.worker_id]
        if not model.entries:
            del self._models[name]
        model.touch()
        self._on_news(name)

    def _touch(self, entry: Entry) -> None:
        """Something about this worker is new."""
        for name in entry.models:
            self._models[name].touch()
        for name in entry.models:
            self._on_news(name)

    def _session_changed(self, worker_id: str) -> None:
        entry = self._entries.get(worker_id)
        if entry is not None:
            self._touch(entry)

    def _count(self, state: str) -> int:
        return sum(entry.session.state == state for entry in self._entries.values())

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
            for entry in list(self._leaving):
                self._leave(entry, now, late)
            self._on_news(None)

    def _leave(self, entry: Entry, now: float, late: float) -> None:
        """Close the session of a removed worker once its last stream has ended or moved, or once it is lost."""
        entry.session.tick(now, late)
        if not len(entry.session) or not entry.session.open:
            self._leaving.remove(entry)
            entry.task.cancel()

    def wake(self, model: str) -> None:
        """Let all that wait for a worker of the model look again."""
        found = self._models.get(model)
        if found is not None:
            found.touch()
            self._on_news(model)

    async def changed(self, model: str, timeout: float) -> bool:
        """Wait until a worker of the model came, changed or left; False if none did within `timeout` seconds, or if
        there is no such model."""
        found = self._models.get(model)
        if found is None:
            return False
        try:
            async with asyncio.timeout(timeout):
                await found.change.wait()
        except TimeoutError:
            return False
        return True

    # Questions

    def live(
        self, model: str, *, fingerprint: str = "", needs: frozenset[pb.Capability] = frozenset()
    ) -> Sequence[Session]:
        """Sessions of the workers that can take a request for the model now."""
        found = self._models.get(model)
        if found is None:
            return ()
        asked = (fingerprint, needs)
        sessions = found.live.get(asked)
        if sessions is None:
            sessions = found.live[asked] = [
                entry.session
                for entry in found.entries.values()
                if entry.session.live and _offers(entry.models[model], fingerprint, needs)
            ]
        return sessions

    def fingerprint(self, model: str, wanted: bytes) -> str | None:
        """The fingerprint with this tag under which the model is here."""
        found = self._models.get(model)
        served = [entry.models[model].fingerprint for entry in found.entries.values()] if found is not None else []
        return next((fingerprint for fingerprint in served if tag(fingerprint) == wanted), None)

    def knows(self, model: str) -> bool:
        """Whether the model is or was here: a name that may label metrics."""
        return model in self._models

    def check_known(self, model: str) -> None:
        """Raise model_not_found for a model that never was here while others are; else there may be hope."""
        if model not in self._models and self.models():
            raise unknown_model(model)

    def check_can(self, model: str, needs: frozenset[pb.Capability]) -> None:
        """Raise unsupported for a model that is here, if none of its workers announces one of the capabilities."""
        found = self._models.get(model)
        if found is None or not found.entries:
            return
        served = [entry.models[model] for entry in found.entries.values()]
        if any(_offers(each, "", needs) for each in served):
            return
        lacking = [one for one in sorted(needs) if not any(one in each.capabilities for each in served)]
        raise (
            refusal(model, lacking[0])
            if lacking
            else unsupported(
                "model", f"no single worker of the model '{model[:200]}' can do all that the request asks for"
            )
        )

    def models(self) -> list[Offer]:
        """All models of workers that are there, by name. A worker that leaves is not counted."""
        found: dict[str, Offer] = {}
        for entry in self._entries.values():
            if entry.session.draining:
                continue
            created = entry.record.started_at.seconds
            for name, served in entry.models.items():
                length = served.context_length or None
                known = found.setdefault(name, Offer(name, created, length, served.base, set()))
                known.created = min(known.created, created)
                lengths = [each for each in (known.context_length, length) if each is not None]
                known.context_length = min(lengths, default=None)
                known.capabilities.update(served.capabilities)
        return sorted(found.values(), key=lambda offer: offer.name)

    def sessions(self) -> Sequence[Session]:
        """The sessions of all workers that are there."""
        return [entry.session for entry in self._entries.values()]


def unknown_model(model: str) -> MeshError:
    """The error for a model that is not here. It names no others: who asks may not be meant to hear of them."""
    return MeshError(ErrorKind.MODEL_NOT_FOUND, f"the model '{model[:200]}' does not exist here", param="model")


def _offers(served: ServedModel, fingerprint: str, needs: frozenset[pb.Capability]) -> bool:
    """Whether it is this model, or any if there is no fingerprint, and can do what is needed."""
    return (not fingerprint or served.fingerprint == fingerprint) and needs.issubset(served.capabilities)


def _is_another(old: WorkerRecord, new: WorkerRecord) -> bool:
    """Another process, or the same one at another place: either way another session."""
    return (old.incarnation, old.address) != (new.incarnation, new.address)
