"""The same client without asyncio: a thread of its own runs the loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Generator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from mesh.answer import Event
from mesh.client.client import MeshClient
from mesh.client.generation import Generation
from mesh.client.placement import Limits
from mesh.client.request import Options, Prompt, build
from mesh.errors import invalid
from mesh.registry import EtcdOptions
from mesh.v1 import inference_pb2 as pb
from mesh.v1.registry_pb2 import ServedModel
from mesh.wire import Tls

T = TypeVar("T")


class SyncMeshClient:
    """`with` it. Arguments and errors are those of MeshClient. Any number of threads may use it at once."""

    def __init__(
        self,
        etcd: str | EtcdOptions | None = None,
        *,
        workers: Sequence[str] = (),
        tls: Tls | None = None,
        join_token: str | None = None,
        sessions: bool = True,
        limits: Limits | None = None,
        name: str | None = None,
    ) -> None:
        def make() -> MeshClient:
            return MeshClient(
                etcd, workers=workers, tls=tls, join_token=join_token, sessions=sessions, limits=limits, name=name
            )

        make()  # what is wrong with the arguments is said here
        self._make = make
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: MeshClient
        self._thread: threading.Thread

    def __enter__(self) -> Self:
        """Ask the registry. Raises MeshError if it does not answer."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mesh-client", daemon=True)
        self._thread.start()
        try:
            self._client = self._wait(self._open())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._wait(self._close())
        finally:
            self._stop()

    def generate(self, model: str, prompt: Prompt, **options: Unpack[Options]) -> Generator[Event]:
        """See MeshClient. Leaving the loop cancels the answer."""
        return self.run(build(model, prompt, options))

    def run(self, request: pb.GenerateRequest) -> Generator[Event]:
        """The same for a request of the wire, with all of its fields."""
        loop = self._running()
        generation = self._wait(self._begin(request))
        try:
            while not generation.done:
                yield from self._wait(generation.next())
        finally:
            if not loop.is_closed():
                loop.call_soon_threadsafe(generation.close)

    def embed(
        self,
        model: str,
        texts: Sequence[str],
        *,
        dimensions: int | None = None,
        normalize: bool | None = None,
        truncate: bool = False,
        timeout: float = 60.0,
    ) -> list[list[float]]:
        """See MeshClient."""
        return self._wait(
            self._opened().embed(
                model, texts, dimensions=dimensions, normalize=normalize, truncate=truncate, timeout=timeout
            )
        )

    def models(self) -> list[ServedModel]:
        """See MeshClient."""
        return self._wait(self._opened().models())

    async def _open(self) -> MeshClient:
        return await self._make().__aenter__()

    async def _begin(self, request: pb.GenerateRequest) -> Generation:
        return self._client.begin(request)

    async def _close(self) -> None:
        await self._client.__aexit__(None, None, None)
        others = asyncio.all_tasks() - {asyncio.current_task()}  # what other threads still wait for
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise invalid("client", "the client is not open: use it in a `with` block")
        return self._loop

    def _opened(self) -> MeshClient:
        self._running()
        return self._client

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of work in the loop, which is cancelled if this thread is interrupted."""
        future = asyncio.run_coroutine_threadsafe(work, self._running())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _stop(self) -> None:
        loop, self._loop = self._running(), None
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()
