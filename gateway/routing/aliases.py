"""Names that stand for models, and the copies of requests that operators want: what `mesh ctl alias` says.

A request is sent along a way: the model that its name stands for, or another one with its share of the split, and then
the fallbacks. Of the models that have a worker each is tried in order; the last one is waited for like any other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol, TypeVar

from gateway.routing.directory import Directory
from mesh.errors import ErrorKind, MeshError
from mesh.log import kv
from mesh.v1.registry_pb2 import Alias, Share

log = logging.getLogger(__name__)

DEFAULT_FALLBACK_AFTER = 2.0
_MAX_COPIES = 32
# With these a request may go to the next model: there is no worker for it, or none with room.
_NO_ROOM = frozenset({ErrorKind.NO_WORKER, ErrorKind.OVERLOADED, ErrorKind.MODEL_NOT_FOUND})


@dataclass(frozen=True, slots=True)
class Way:
    """Where a request goes. `alias`: whether its name is one; `models`: in the order in which they are tried;
    `patience`: seconds that it waits for room before the next one is; `shadows`: those that get a copy."""

    name: str
    alias: bool
    models: tuple[str, ...]
    patience: float = DEFAULT_FALLBACK_AFTER
    shadows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Detour:
    """That a request went past the model that it was for, and the code of the error why."""

    instead_of: str
    why: str


class Attempt(Protocol):
    """What is done for a request on one model."""

    @property
    def attempts(self) -> int:
        """Workers that were asked."""
        ...

    def abort(self, error: MeshError) -> None:
        """Let whoever waits for it get this error."""
        ...

    def close(self) -> None:
        """End it."""
        ...


Work = TypeVar("Work", bound=Attempt)
Answer = TypeVar("Answer")


class Aliases:
    """What each name stands for. `run` must be running for copies to be made."""

    def __init__(self) -> None:
        self._aliases: dict[str, Alias] = {}
        self._group: asyncio.TaskGroup | None = None
        self._copies: set[asyncio.Task[None]] = set()

    def on_alias(self, name: str, alias: Alias | None) -> None:
        """An operator has said what a name stands for, or no longer does (None)."""
        if alias is None:
            self._aliases.pop(name, None)
        else:
            self._aliases[name] = alias
        log.info("alias", extra=kv(alias=name, model=alias.model if alias is not None else None))

    def items(self) -> list[tuple[str, Alias]]:
        """All names with what they stand for."""
        return sorted(self._aliases.items())

    def models(self, name: str) -> list[str]:
        """The models that may answer requests for a name, the likeliest first."""
        alias = self._aliases.get(name)
        if alias is None:
            return [name]
        return list(dict.fromkeys([alias.model, *(each.model for each in alias.split), *alias.fallbacks]))

    def way(self, name: str, *, who: bytes, request: bytes) -> Way:
        """The way of a request for a name. The same `who` takes the same part of a split; copies are drawn by
        `request`."""
        alias = self._aliases.get(name)
        if alias is None:
            return Way(name, alias=False, models=(name,))
        first = next(_drawn(alias.split, who), alias.model)
        models = tuple(dict.fromkeys([first, *alias.fallbacks]))
        patience = alias.fallback_after if alias.HasField("fallback_after") else DEFAULT_FALLBACK_AFTER
        shadows = tuple(each.model for each in alias.shadows if _draw(request, each.model) < each.share)
        return Way(name, alias=True, models=models, patience=patience, shadows=shadows)

    async def run(self) -> None:
        """Own the copies that are under way until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await asyncio.Event().wait()
            finally:
                self._group = None
                for task in self._copies:
                    task.cancel()

    def copy(self, work: Coroutine[Any, Any, None]) -> bool:
        """Make a copy of a request beside it; False if too many are under way. `work` raises nothing."""
        if self._group is None or len(self._copies) >= _MAX_COPIES:
            work.close()
            return False
        task = self._group.create_task(work)
        self._copies.add(task)
        task.add_done_callback(self._copies.discard)
        return True


def _drawn(shares: Sequence[Share], who: bytes) -> Iterator[str]:
    """The model whose share this is, if it is of any."""
    place = _draw(who, "")
    for each in shares:
        if place < each.share:
            yield each.model
            return
        place -= each.share


def _draw(data: bytes, salt: str) -> float:
    """A number from 0 to 1 that is the same each time."""
    digest = blake2b(data, digest_size=8, key=blake2b(salt.encode(), digest_size=16).digest()).digest()
    return int.from_bytes(digest) / 2**64


async def along(
    way: Way,
    directory: Directory,
    start: Callable[[str], Work],
    answer: Callable[[Work], Awaitable[Answer]],
) -> tuple[Work, Answer, Detour | None]:
    """Start the work on the first model of the way that can take it, and wait for its answer. Raises MeshError when
    the last one cannot, or for any other reason than a lack of room."""
    models = _open(way.models, directory)
    detour = Detour(way.models[0], ErrorKind.NO_WORKER.value.code) if models[0] != way.models[0] else None
    for place, model in enumerate(models):
        work = start(model)
        if place == len(models) - 1:
            return work, await answer(work), detour
        try:
            return work, await _in_time(work, answer(work), model, way.patience), detour
        except MeshError as error:
            work.close()
            if error.kind not in _NO_ROOM:
                raise
            detour = Detour(way.models[0], error.code)
    raise AssertionError(models)


def _open(models: Collection[str], directory: Directory) -> list[str]:
    """The models that have a worker; if none has, the first: there may be hope for it."""
    found = [model for model in models if directory.live(model)]
    return found or list(models)[:1]


async def _in_time(work: Attempt, waiting: Awaitable[Answer], model: str, seconds: float) -> Answer:
    """The answer, unless no worker was asked in time: then the error is overloaded."""
    task = asyncio.ensure_future(waiting)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if not task.done() and not work.attempts:
            text = f"no worker of the model '{model[:200]}' had room within {seconds:g} s"
            work.abort(MeshError(ErrorKind.OVERLOADED, text))
        return await task
    finally:
        task.cancel()
