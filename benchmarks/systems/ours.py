"""Our mesh: etcd, gateways, and workers with the scripted engine."""

from __future__ import annotations

import asyncio
import contextlib
import re
import urllib.request
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import ClassVar

import grpc.aio

from benchmarks.processes import python
from benchmarks.systems.session_proxy import Armed, SessionProxy
from benchmarks.systems.system import MODEL, Fault, System
from mesh import wire
from mesh.v1 import admin_pb2
from mesh.v1.admin_pb2_grpc import AdminServiceStub

_ENDLESS = 1 << 30
_RPC_LIMIT = 5.0
_SETTLE_LIMIT = 90.0
_POLL = 0.05
_READY = re.compile(rb'^mesh_gateway_workers\{state="ready"\} (\d+)', re.MULTILINE)


class Ours(System):
    """With the defaults, but for what a scenario sets."""

    name: ClassVar[str] = "ours"
    uses_etcd: ClassVar[bool] = True
    health_path: ClassVar[str] = "/healthz"

    async def _start(self) -> None:
        self._armed = Armed()
        self._spoilers: list[SessionProxy] = []
        if self.setup.between == "faults":
            for place, port in enumerate(self.worker_ports):
                proxy = SessionProxy(port, self._armed, partial(self._kill_worker, place))
                self._spoilers.append(await proxy.__aenter__())
        await super()._start()

    def _kill_worker(self, place: int) -> None:
        self.workers[place].kill()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)
        for proxy in self._spoilers:
            await proxy.__aexit__(None, None, None)

    def gateway_command(self, place: int) -> Sequence[str]:
        """See System."""
        return python("gateway", "--port", str(self.ports[place]), "--etcd", self.registry())

    def registry(self) -> str:
        """See System."""
        assert self.etcd is not None
        return self.etcd.url

    def worker_command(self, place: int) -> Sequence[str]:
        """See System."""
        pace = self.setup.workers[place]
        return python(
            "mesh.worker",
            *("--port", str(self.worker_ports[place]), "--no-metrics", "--worker-id", f"worker-{place}"),
            *("--etcd", self.registry(), "--advertise", f"127.0.0.1:{self.reached(place)}"),
            *("--engine", "scripted", "--model-name", MODEL, "--max-rows", str(self.setup.slots)),
            *("--script-tokens", str(_ENDLESS), "--context-length", str(_ENDLESS)),
            *("--script-step-ms", f"{pace.step * 1e3:g}", "--script-prefill-ms", f"{pace.prefill * 1e3:g}"),
        )

    def reached(self, place: int) -> int:
        """See System."""
        return self._spoilers[place].port if self._spoilers else super().reached(place)

    def arm(self, fault: Fault) -> None:
        """See System."""
        assert self._spoilers, "this setup has nothing between gateway and workers"
        self._armed.fault = fault

    def disarm(self) -> bool:
        """See System."""
        return self._armed.take() is None

    async def serving(self) -> int:
        """See System."""
        async with asyncio.timeout(_SETTLE_LIMIT):
            while True:
                for place in range(len(self.workers)):
                    with contextlib.suppress(grpc.aio.AioRpcError):  # one that has no time for us is asked again
                        if await self._live(place):
                            return place
                await asyncio.sleep(_POLL / 10)

    async def live_rows(self) -> int:
        """See System."""
        return sum([await self._live(place) for place in range(len(self.workers))])

    async def _live(self, place: int) -> int:
        async with wire.channel(f"127.0.0.1:{self.worker_ports[place]}") as channel:
            stats = await AdminServiceStub(channel).GetStats(admin_pb2.GetStatsRequest(), timeout=_RPC_LIMIT)
        return stats.live_streams

    async def settle(self) -> None:
        """See System. The gateways tell how many workers they use."""
        for place in range(len(self.gateways)):
            async with asyncio.timeout(_SETTLE_LIMIT):
                while await asyncio.to_thread(self._ready_workers, place) != len(self.workers):
                    self.gateways[place].check()
                    await asyncio.sleep(_POLL)

    def _ready_workers(self, place: int) -> int:
        try:
            with urllib.request.urlopen(f"{self.url(place)}/metrics", timeout=_RPC_LIMIT) as answer:
                found = _READY.search(answer.read())
        except OSError:
            return 0
        return int(found[1]) if found else 0
