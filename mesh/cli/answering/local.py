"""An engine in this process, with no server around it."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Coroutine, Generator
from queue import SimpleQueue
from typing import Any, TypeVar

from mesh.answer import Event as WireEvent
from mesh.cli.answering.wire import WireEndpoint
from mesh.engine.base import Engine, Failed, Finished, ModelInfo, Step
from mesh.engine.base import Event as EngineEvent
from mesh.v1 import inference_pb2 as pb
from mesh.worker.convert import find_model, to_request
from mesh.worker.events import fill_event

T = TypeVar("T")


class LocalEngine:
    """Loads and runs an engine on a thread of its own, for callers that wait. Raises MeshError if it cannot load."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._keys = itertools.count(1)
        self._answers: dict[int, SimpleQueue[EngineEvent]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine", daemon=True)
        self._thread.start()
        try:
            self._wait(engine.start(self._on_step))
        except BaseException:
            self.close()
            raise

    def models(self) -> list[str]:
        """Names of its models, adapters last."""
        return [model.name for model in sorted(self._engine.models, key=lambda model: model.base is not None)]

    def run(self, wire: pb.GenerateRequest) -> Generator[WireEvent]:
        """The events of a request; closing the iterator ends it. Raises MeshError."""
        model = find_model(self._engine.models, wire.model)
        key = next(self._keys)
        events = self._answers[key] = SimpleQueue[EngineEvent]()
        try:
            self._wait(self._engine.submit(to_request(wire, model, key=key)))
            while True:
                event = events.get()
                if isinstance(event, Failed):
                    raise event.error
                yield _on_the_wire(event, model)
                if isinstance(event, Finished):
                    return
        finally:
            del self._answers[key]
            self._loop.call_soon_threadsafe(self._engine.cancel, key)

    def close(self) -> None:
        """End everything."""
        self._wait(self._engine.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _on_step(self, step: Step) -> None:
        for event in step.events:
            answer = self._answers.get(event.key)
            if answer is not None:
                answer.put(event)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # a Ctrl-C, after which nobody waits for it
            future.cancel()
            raise


def local_endpoint(engine: Engine) -> WireEndpoint:
    """The Endpoint of an engine, loaded. Raises MeshError."""
    local = LocalEngine(engine)
    return WireEndpoint("this process", local.run, local.models, local.close)


def _on_the_wire(event: EngineEvent, model: ModelInfo) -> WireEvent:
    response = pb.GenerateResponse()
    fill_event(response, event, model)
    name = response.WhichOneof("event")
    assert name is not None
    return getattr(response, name)
