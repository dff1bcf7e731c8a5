"""Several models behind one engine: each has an engine of its own, and a request goes to the one that serves it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from mesh.engine.base import (
    Chat,
    Classification,
    Embeddings,
    Engine,
    Failed,
    Finished,
    Load,
    ModelInfo,
    Request,
    Step,
    StepListener,
    Text,
    TextPair,
    Tokens,
)
from mesh.errors import ErrorKind, MeshError, invalid


class SeveralEngines(Engine):
    """Engines of one process, seen as one. They are started one after the other, so that each finds the memory that
    the ones before have left, and step independently."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.name = engines[0].name
        self._engines = tuple(engines)
        self._listener: StepListener | None = None
        self._of_request: dict[int, Engine] = {}
        self._steps = 0

    @property
    def models(self) -> Sequence[ModelInfo]:
        """See Engine."""
        return [model for engine in self._engines for model in engine.models]

    async def start(self, listener: StepListener) -> None:
        """See Engine."""
        self._listener = listener
        for engine in self._engines:
            await engine.start(self._on_step)
        name, count = Counter(model.name for model in self.models).most_common(1)[0]
        if count > 1:
            raise invalid("model_name", f"'model_name' must differ between models: {count} are called '{name}'")

    async def stop(self) -> None:
        """See Engine."""
        self._listener = None
        self._of_request.clear()
        for engine in self._engines:
            await engine.stop()

    async def wait_broken(self) -> None:
        """See Engine. One that has broken down takes the others with it: only a new process brings it back."""
        waits = [asyncio.create_task(engine.wait_broken()) for engine in self._engines]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    # Requests

    async def submit(self, request: Request) -> None:
        """See Engine."""
        engine = self._of_request[request.key] = self._serving(request.model)
        try:
            await engine.submit(request)
        except BaseException:
            self._of_request.pop(request.key, None)
            raise
        if request.key not in self._of_request:
            engine.cancel(request.key)  # it was cancelled before the engine knew it

    def cancel(self, key: int) -> None:
        """See Engine."""
        engine = self._of_request.pop(key, None)
        if engine is not None:
            engine.cancel(key)

    def grant(self, key: int, tokens: int) -> None:
        """See Engine."""
        engine = self._of_request.get(key)
        if engine is not None:
            engine.grant(key, tokens)

    def _serving(self, model: str) -> Engine:
        for engine in self._engines:
            if any(served.name == model for served in engine.models):
                return engine
        raise MeshError(
            ErrorKind.MODEL_NOT_FOUND,
            f"model '{model}' is not served here: this worker serves {self._names()}",
            param="model",
        )

    def _names(self) -> str:
        return ", ".join(f"'{model.name}'" for model in self.models)

    def _on_step(self, step: Step) -> None:
        for event in step.events:
            if isinstance(event, Finished | Failed):
                self._of_request.pop(event.key, None)
        if self._listener is not None:
            self._steps += 1
            self._listener(Step(self._steps, step.events, self.load()))

    # What is known

    def load(self) -> Load:
        """See Engine. Counts are sums; of the KV caches, the fullest one is told."""
        loads = [engine.load() for engine in self._engines]
        return Load(
            running=sum(load.running for load in loads),
            waiting=sum(load.waiting for load in loads),
            paused=sum(load.paused for load in loads),
            slots=sum(load.slots for load in loads),
            running_tokens=sum(load.running_tokens for load in loads),
            pending_tokens=sum(load.pending_tokens for load in loads),
            kv_used=max(load.kv_used for load in loads),
            steps=sum(load.steps for load in loads),
        )

    def stats(self) -> dict[str, float]:
        """See Engine. Sums over the models."""
        total: dict[str, float] = {}
        for engine in self._engines:
            for name, value in engine.stats().items():
                total[name] = total.get(name, 0) + value
        return total

    # Adapters

    async def load_adapter(self, base: str, name: str, path: str) -> ModelInfo:
        """See Engine. No two models of the process have one name."""
        if not base:
            raise invalid("base", f"'base' must be given: this worker serves {self._names()}")
        if any(model.name == name for model in self.models):
            raise invalid("name", f"'name' is '{name}', which is served already: this worker serves {self._names()}")
        return await self._serving(base).load_adapter(base, name, path)

    async def unload_adapter(self, name: str) -> None:
        """See Engine."""
        await self._serving(name).unload_adapter(name)

    # Besides generation

    async def embed(
        self,
        model: str,
        inputs: Sequence[Text | Tokens],
        *,
        dimensions: int | None,
        normalize: bool | None,
        truncate: bool,
    ) -> Embeddings:
        """See Engine."""
        engine = self._serving(model)
        return await engine.embed(model, inputs, dimensions=dimensions, normalize=normalize, truncate=truncate)

    async def classify(
        self, model: str, inputs: Sequence[Text | TextPair], *, raw: bool, truncate: bool
    ) -> Classification:
        """See Engine."""
        return await self._serving(model).classify(model, inputs, raw=raw, truncate=truncate)

    async def tokenize(self, model: str, prompt: Text | Chat, *, add_special_tokens: bool = True) -> list[int]:
        """See Engine."""
        return await self._serving(model).tokenize(model, prompt, add_special_tokens=add_special_tokens)

    async def detokenize(self, model: str, ids: Sequence[int], *, keep_special_tokens: bool = False) -> str:
        """See Engine."""
        return await self._serving(model).detokenize(model, ids, keep_special_tokens=keep_special_tokens)

    async def tokenizer_files(self, model: str) -> dict[str, bytes]:
        """See Engine."""
        return await self._serving(model).tokenizer_files(model)
