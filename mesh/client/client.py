"""The client with asyncio."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar, Unpack

from mesh.answer import Event
from mesh.client.generation import Generation
from mesh.client.placement import Limits, Placement
from mesh.client.request import Options, Prompt, build
from mesh.client.workers import Workers
from mesh.dial import dialler
from mesh.errors import MeshError, invalid
from mesh.join import JoinToken
from mesh.registry import EtcdOptions
from mesh.v1 import inference_pb2 as pb
from mesh.v1.inference_pb2_grpc import InferenceServiceStub
from mesh.v1.registry_pb2 import ServedModel
from mesh.wire import Tls

Response = TypeVar("Response")


class MeshClient:
    """`async with` it. Used from one event loop.

    etcd: URL(s) of the registry, or EtcdOptions for one with TLS or passwords. `mesh up` serves it at 127.0.0.1:12379.
    workers: host:port of workers, where there is no registry that one could ask.
    tls: how to speak to workers that use TLS. join_token: the mesh's, if it has one.
    sessions: all generations on one stream per worker, which costs least, notices a frozen worker soonest and leaves a
    draining one at once. Without, each is a Generate call of its own; not with a join token.
    name: of this client in the workers' logs.
    """

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
        if (etcd is None) == (not workers):
            raise invalid("etcd", "give either 'etcd' or 'workers'")
        if isinstance(workers, str):
            raise invalid("workers", "'workers' must be a list of host:port, not one text")
        if join_token and not sessions:
            raise invalid("join_token", "'join_token' needs sessions: a Generate call cannot prove it at its start")
        join = JoinToken(join_token) if join_token else None
        self._limits = limits or Limits()
        self._by_address = etcd is None
        self._workers = Workers(
            dialler(tls, join),
            etcd=EtcdOptions.from_url(etcd) if isinstance(etcd, str) else etcd,
            addresses=workers,
            client=name or f"client-{socket.gethostname()}",
            join=join,
            sessions=sessions,
        )

    async def __aenter__(self) -> Self:
        """Ask the registry. Raises MeshError if it does not answer."""
        await self._workers.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._workers.close()

    async def generate(self, model: str, prompt: Prompt, **options: Unpack[Options]) -> AsyncGenerator[Event]:
        """The events of an answer: Started, Delta and ChoiceFinished of each choice, Finished. Raises MeshError.

        Leaving the loop, or `aclose`, cancels it: the worker's rows end within a step. One that is not read pauses its
        own rows and nobody else's.
        """
        async for event in self.run(build(model, prompt, options)):
            yield event

    async def run(self, request: pb.GenerateRequest) -> AsyncGenerator[Event]:
        """The same for a request of the wire, with all of its fields."""
        generation = self.begin(request)
        try:
            while not generation.done:
                for event in await generation.next():
                    yield event
        finally:
            generation.close()

    def begin(self, request: pb.GenerateRequest) -> Generation:
        """The same step by step, for the other kinds of client."""
        if request.HasField("resume"):
            raise invalid("resume", "'resume' is what this client sends by itself")
        return Generation(request, self._workers, self._limits)

    async def embed(
        self,
        model: str,
        texts: Sequence[str],
        *,
        dimensions: int | None = None,
        normalize: bool | None = None,
        truncate: bool = False,
        timeout: float = 60.0,
    ) -> list[list[float]]:
        """One vector per text. Meaning of the options: EmbedRequest of inference.proto. Raises MeshError."""
        inputs = [pb.EmbedInput(text=text) for text in texts]
        request = pb.EmbedRequest(
            model=model, inputs=inputs, dimensions=dimensions, normalize=normalize, truncate=truncate
        )
        answer = await self._ask(
            model, lambda stub, left: stub.Embed(request, timeout=left), pb.CAPABILITY_EMBED, timeout
        )
        return [list(embedding.values) for embedding in answer.embeddings]

    async def models(self) -> list[ServedModel]:
        """The models of all workers in the registry, by name. Raises MeshError if only addresses were given."""
        if self._by_address:
            raise invalid("workers", "a list of models needs 'etcd': workers tell of their models there")
        return self._workers.models()

    async def _ask(
        self,
        model: str,
        call: Callable[[InferenceServiceStub, float | None], Awaitable[Response]],
        needs: pb.Capability,
        timeout: float,
    ) -> Response:
        """One answer, of whichever worker gives it."""
        placement = Placement(self._workers, model, (needs,), self._limits, timeout)
        while True:
            worker = await placement.find()
            left = placement.seconds_left
            worker.live += 1
            try:
                return await worker.ask(lambda stub, left=left: call(stub, left))
            except MeshError as error:
                placement.left(worker, error)
            finally:
                worker.live -= 1
