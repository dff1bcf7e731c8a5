"""NVIDIA Dynamo, with workers that yield token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from benchmarks.systems.system import Inexpressible, Setup, System


class Dynamo(System):
    """etcd, round robin; where it is to be guarded, with migration and a limit for silent streams, as it has neither by
    default."""

    name: ClassVar[str] = "Dynamo"
    environment: ClassVar[str] = ".venv-dynamo"
    worker_script: ClassVar[str] = "dynamo_endpoint.py"
    uses_etcd: ClassVar[bool] = True

    def __init__(self, folder: Path, setup: Setup) -> None:
        if setup.between == "tcp":
            raise Inexpressible("its workers choose their ports")
        super().__init__(folder, setup)

    def gateway_command(self, place: int) -> Sequence[str]:
        """See System."""
        return [
            *(self.binary("python"), "-m", "dynamo.frontend"),
            *("--http-host", "127.0.0.1", "--http-port", str(self.ports[place])),
            *("--router-mode", "round-robin"),
            *(("--migration-limit", "3") if self.setup.guarded else ()),
        ]

    def gateway_env(self) -> Mapping[str, str]:
        """See System. Its addresses are all set, since some are those of the network by default."""
        assert self.etcd is not None
        limits = {"DYN_HTTP_BACKEND_STREAM_TIMEOUT_SECS": "4"} if self.setup.guarded else {}
        return {
            **limits,
            "DYN_DISCOVERY_BACKEND": "etcd",
            "ETCD_ENDPOINTS": self.etcd.url,
            "DYN_REQUEST_PLANE": "tcp",
            "DYN_EVENT_PLANE": "zmq",
            "DYN_TCP_RPC_HOST": "127.0.0.1",
            "DYN_TCP_RESPONSE_STREAM_HOST": "127.0.0.1",
            "DYN_EVENT_PLANE_HOST": "127.0.0.1",
            "DYN_SYSTEM_HOST": "127.0.0.1",
            "HF_HUB_OFFLINE": "1",
        }

    def worker_env(self) -> Mapping[str, str]:
        """See System."""
        return self.gateway_env()

    async def _listening(self, place: int) -> None:
        """Its workers choose their ports; `settle` waits for them."""
