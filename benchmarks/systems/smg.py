"""smg, with workers that speak vLLM's gRPC service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from benchmarks.processes import free_port
from benchmarks.systems.system import System


class Smg(System):
    """Static workers, round robin, its retries as they come; it looks for returned workers each second."""

    name: ClassVar[str] = "smg"
    environment: ClassVar[str] = ".venv-smg"
    worker_script: ClassVar[str] = "vllm_grpc.py"

    def gateway_command(self, place: int) -> Sequence[str]:
        """See System."""
        workers = [f"grpc://127.0.0.1:{self.reached(place)}" for place in range(len(self.setup.workers))]
        return [
            self.binary("smg"),
            "launch",
            *("--host", "127.0.0.1", "--port", str(self.ports[place])),
            *("--worker-urls", *workers, "--policy", "round_robin", "--worker-startup-check-interval", "1"),
            *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())),
        ]
