"""AdminService: operation of this worker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc.aio

from mesh.engine.base import ModelInfo
from mesh.v1 import admin_pb2 as pb
from mesh.v1 import admin_pb2_grpc as pb_grpc
from mesh.v1 import registry_pb2
from mesh.worker.events import fill_load
from mesh.worker.identity import Identity
from mesh.worker.servicer import InferenceServicer, guard
from mesh.worker.streams import Streams

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]


class AdminServicer(pb_grpc.AdminServiceServicer):
    """Drains, counts, and sees to the adapters.

    `drain` is called with whether the process shall end once it is empty, `undrain` to call that off, `on_models` when
    other models are served.
    """

    def __init__(
        self,
        streams: Streams,
        identity: Identity,
        inference: InferenceServicer,
        *,
        drain: Callable[[bool], Awaitable[None]],
        undrain: Callable[[], Awaitable[None]],
        on_models: Callable[[], None],
    ) -> None:
        self._streams = streams
        self._identity = identity
        self._inference = inference
        self._drain = drain
        self._undrain = undrain
        self._on_models = on_models

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        """See admin.proto."""
        await self._drain(request.stop)
        return pb.DrainResponse(live_streams=len(self._streams))

    async def Undrain(self, request: pb.UndrainRequest, context: Context) -> pb.UndrainResponse:
        """See admin.proto."""
        await guard(context, self._undrain())
        return pb.UndrainResponse(live_streams=len(self._streams))

    async def GetStats(self, request: pb.GetStatsRequest, context: Context) -> pb.GetStatsResponse:
        """See admin.proto."""
        counts, sessions = self._streams.counts, self._inference.sessions
        response = pb.GetStatsResponse(
            worker_id=self._identity.worker_id,
            incarnation=self._identity.incarnation,
            state=(registry_pb2.WORKER_STATE_DRAINING if self._streams.draining else registry_pb2.WORKER_STATE_READY),
            live_streams=len(self._streams),
            live_sessions=len(sessions),
            streams_started=counts.started,
            streams_finished=counts.finished,
            streams_cancelled=counts.cancelled,
            streams_failed=counts.failed,
            session_messages=self._inference.session_messages + sum(session.messages for session in sessions),
            engine=self._streams.engine.stats(),
        )
        response.now.GetCurrentTime()
        fill_load(response.load, self._streams.engine.load())
        return response

    async def LoadAdapter(self, request: pb.LoadAdapterRequest, context: Context) -> pb.LoadAdapterResponse:
        """See admin.proto."""
        return await guard(context, self._load(request))

    async def UnloadAdapter(self, request: pb.UnloadAdapterRequest, context: Context) -> pb.UnloadAdapterResponse:
        """See admin.proto."""
        return await guard(context, self._unload(request.name))

    async def ListAdapters(self, request: pb.ListAdaptersRequest, context: Context) -> pb.ListAdaptersResponse:
        """See admin.proto."""
        adapters = [self._adapter(model) for model in self._streams.engine.models if model.base is not None]
        return pb.ListAdaptersResponse(adapters=adapters)

    async def _load(self, request: pb.LoadAdapterRequest) -> pb.LoadAdapterResponse:
        model = await self._streams.engine.load_adapter(request.base, request.name, request.path)
        self._on_models()
        return pb.LoadAdapterResponse(adapter=self._adapter(model))

    async def _unload(self, name: str) -> pb.UnloadAdapterResponse:
        engine = self._streams.engine
        fingerprint = next((model.fingerprint for model in engine.models if model.name == name), "")
        await engine.unload_adapter(name)
        self._on_models()
        return pb.UnloadAdapterResponse(live_streams=self._streams.count(fingerprint))

    def _adapter(self, model: ModelInfo) -> pb.Adapter:
        return pb.Adapter(
            name=model.name,
            base=model.base or "",
            fingerprint=model.fingerprint,
            parameters=model.parameters,
            live_streams=self._streams.count(model.fingerprint),
        )
