"""FastChat: controller, API server, and workers on its own wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from benchmarks.processes import free_port
from benchmarks.systems.system import Setup, System


class FastChat(System):
    """As its documentation starts it; the controller gives requests to the worker with the shortest queue."""

    name: ClassVar[str] = "FastChat"
    environment: ClassVar[str] = ".venv-fastchat"
    worker_script: ClassVar[str] = "fastchat_http.py"

    def __init__(self, folder: Path, setup: Setup) -> None:
        super().__init__(folder, setup)
        self._controller = free_port()

    def helper_commands(self) -> Mapping[str, Sequence[str]]:
        """See System."""
        place = ("--host", "127.0.0.1", "--port", str(self._controller))
        return {"controller": [self.binary("python"), "-m", "fastchat.serve.controller", *place]}

    def gateway_command(self, place: int) -> Sequence[str]:
        """See System."""
        controller = f"http://127.0.0.1:{self._controller}"
        return [
            *(self.binary("python"), "-m", "fastchat.serve.openai_api_server"),
            *("--host", "127.0.0.1", "--port", str(self.ports[place]), "--controller-address", controller),
        ]

    def gateway_env(self) -> Mapping[str, str]:
        """See System. It keeps log files."""
        return {"LOGDIR": str(self.folder)}

    def registry(self) -> str:
        """See System."""
        return f"http://127.0.0.1:{self._controller}/register_worker"
