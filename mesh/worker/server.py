"""The gRPC server of a worker: inference, admin, health and reflection over one engine.

The life of the process around it (registry, signals, metrics) is in lifecycle.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from mesh import wire
from mesh.engine.base import Engine
from mesh.errors import ErrorKind, MeshError
from mesh.join import CallGate
from mesh.metrics import WorkerMetrics
from mesh.trace import Spans
from mesh.v1 import admin_pb2, admin_pb2_grpc, inference_pb2, inference_pb2_grpc
from mesh.worker.admin import AdminServicer
from mesh.worker.identity import Identity
from mesh.worker.servicer import InferenceServicer
from mesh.worker.streams import Streams
from mesh.worker.vllm import servicer as vllm

_INFERENCE: str = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
_ADMIN: str = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
_HEALTH: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_SERVICES = (_INFERENCE, _ADMIN, _HEALTH, reflection.SERVICE_NAME)
# After the streams have been ended, what their last messages need to reach the clients.
_GRACE = 1.0


class WorkerServer:
    """Serves an engine. `bind`, then `start` (which loads), then `drain`, then `stop`.

    `stopping` is set when the process is asked to end. `on_change` is called when other models are served than before,
    when a drain begins, and when one is called off.
    """

    def __init__(
        self,
        engine: Engine,
        identity: Identity,
        *,
        metrics: WorkerMetrics | None = None,
        tls: wire.Tls | None = None,
        spans: Spans | None = None,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        also_speak: Sequence[str] = (),
    ) -> None:
        self.engine = engine
        self.identity = identity
        self.metrics = metrics or WorkerMetrics()
        self.streams = Streams(engine, self.metrics, spans)
        self.stopping = asyncio.Event()
        self.serving = False
        self.on_change: Callable[[], None] = lambda: None
        self._tls = tls
        self._health = HealthServicer()
        self._calls = wire.Calls()
        gate = [CallGate(identity.join, also_open=self._known_by_certificate())] if identity.join is not None else []
        self._server = grpc.aio.server(options=wire.SERVER_OPTIONS, interceptors=[self._calls, *gate, *interceptors])
        self._add_services()
        if "vllm" in also_speak:
            self._server.add_generic_rpc_handlers((vllm.VllmServicer(self.streams, identity).handlers(),))

    def bind(self, host: str, port: int) -> int:
        """Take the port (0 picks one) and return it; raises MeshError. Clients are served after `start`."""
        return wire.bind(self._server, host, port, tls=self._tls)

    async def start(self) -> None:
        """Load the engine and serve; raises MeshError."""
        await self.engine.start(self.streams.on_step)
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()
        self.serving = True

    async def drain(self, *, stop: bool = False) -> None:
        """Take no new streams, and tell sessions and health watchers at once. Live streams go on.

        With `stop` whoever runs the process is asked, by `stopping`, to end it once the streams are gone.
        """
        self.streams.drain()
        self.on_change()
        if stop:
            self.stopping.set()
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def undrain(self) -> None:
        """Take streams again. Raises MeshError once the process is asked to end."""
        if self.stopping.is_set():
            raise MeshError(ErrorKind.DRAINING, "this worker was asked to end: its drain cannot be called off")
        self.streams.undrain()
        self.on_change()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def break_down(self) -> None:
        """The engine is no more: take nothing new, tell everybody, and let what is live go on elsewhere."""
        await self.drain()
        self.streams.fail_all(MeshError(ErrorKind.ENGINE_FAILED, "the engine of this worker has broken down"))

    async def wait_empty(self, limit: float) -> bool:
        """Wait until no stream is live, at most `limit` seconds; returns whether that came about."""
        try:
            async with asyncio.timeout(limit):
                await self.streams.wait_empty()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """End what is left and free everything. Safe to call at any time."""
        self.streams.fail_all(MeshError(ErrorKind.DRAINING, "this worker stops before the answer was complete"))
        await self._calls.stop(self._server, _GRACE)
        await self.engine.stop()

    def _add_services(self) -> None:
        inference = InferenceServicer(self.streams, self.identity, self.metrics)
        admin = AdminServicer(
            self.streams,
            self.identity,
            inference,
            drain=lambda stop: self.drain(stop=stop),
            undrain=self.undrain,
            on_models=lambda: self.on_change(),
        )
        self.metrics.sessions.set_function(lambda: len(inference.sessions))
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(inference, self._server)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(_SERVICES, self._server)

    def _known_by_certificate(self) -> tuple[str, ...]:
        """Services whose clients cannot prove the join token: a certificate lets them in, and nothing else does."""
        return (f"/{vllm.SERVICE}/",) if self._tls is not None and self._tls.ca is not None else ()

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", _INFERENCE, _ADMIN):
            await self._health.set(service, status)
