"""The other processes of a tensor parallel model, as rank 0 sees them: it starts them, tells them what to do, and
notices when one is gone.

A channel of its own beside the process group, a Unix socket for each, because of how it ends: the kernel closes it with
the process, however that died, so that both ends know at once and need no limit while there is nothing to do.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Final, cast

import torch

from mesh.engine.transformers.loading.device import default_threads, find_device
from mesh.engine.transformers.options import EngineOptions
from mesh.engine.transformers.parallel.group import join_group, leave_group
from mesh.engine.transformers.parallel.place import publish_folder, torchrun_place
from mesh.engine.transformers.parallel.protocol import Begin, Message, Stop, encode
from mesh.errors import ErrorKind, MeshError
from mesh.log import kv

log = logging.getLogger(__name__)

# From the start of a process until it has imported torch and says so.
_START_SECONDS: Final = 120.0
# A step that takes longer hangs: one of the ranks does not answer, though it lives.
_STEP_SECONDS: Final = 120.0
# Between two looks at whether a step hangs, and at processes that have not come yet.
_LOOK_SECONDS: Final = 1.0
# Of a rank that was told to stop, until it is killed.
_STOP_SECONDS: Final = 5.0
SOCKET = "ranks"
_FOLLOWER = "mesh.engine.transformers.follower"


class RankError(BaseException):
    """The ranks are not in the same step any more, and never will be.

    No Exception: after one of those the engine tries the requests of a step alone, and goes on.
    """


class Ranks:
    """Ranks 1 to `options.model.ranks` - 1. `lost` is called once, on a thread of this object, with one sentence, when
    one of them is gone or hangs; `busy` tells for how many seconds the current step has been running."""

    def __init__(self, lost: Callable[[str], None], busy: Callable[[], float]) -> None:
        self._lost = lost
        self._busy = busy
        self._folder: Path | None = None
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._connections: dict[int, Connection] = {}
        self._pids: dict[int, int] = {}
        self._watcher: threading.Thread | None = None
        self._closing = threading.Event()
        self._broken = False

    def start(self, options: EngineOptions) -> EngineOptions:
        """Start the others, or meet those that torchrun has started, and form the process group.

        Returns the options of rank 0 itself. Blocks; raises MeshError.
        """
        device, world = find_device(options.model.device), options.model.ranks
        self._folder = Path(tempfile.mkdtemp(prefix="mesh-ranks-"))
        _bind_to_loopback()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self._folder / SOCKET))
            listener.listen(world)
            listener.settimeout(_LOOK_SECONDS)
            if torchrun_place() is None:
                self._spawn(world)
            else:
                publish_folder(self._folder)
            self._meet(listener, world)
        threads = options.model.threads or default_threads()
        if device.type == "cpu":
            threads = max(1, threads // world)
        options = replace(options, model=replace(options.model, threads=threads))
        for rank, connection in self._connections.items():
            connection.send_bytes(encode(Begin(options, _device_of(device, rank))))
        self._watcher = threading.Thread(target=self._watch, args=(world,), name="mesh-ranks", daemon=True)
        self._watcher.start()
        join_group(self._folder, 0, world, torch.device(_device_of(device, 0)))
        log.info("all ranks are there", extra=kv(ranks=world, pids=[self._pids[rank] for rank in range(1, world)]))
        return options

    def _spawn(self, world: int) -> None:
        level = logging.getLevelName(logging.getLogger().getEffectiveLevel())
        environment = {**os.environ, "MESH_LOG_LEVEL": level}
        for rank in range(1, world):
            command = [sys.executable, "-P", "-m", _FOLLOWER, str(rank), str(world), str(self._folder)]
            self._processes[rank] = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment)

    def _meet(self, listener: socket.socket, world: int) -> None:
        """Wait until each rank has called, and said which it is."""
        limit = time.monotonic() + _START_SECONDS
        while missing := set(range(1, world)) - self._connections.keys():
            for rank, process in self._processes.items():
                if process.poll() is not None:
                    raise MeshError(ErrorKind.ENGINE_FAILED, _ended(rank, process))
            if time.monotonic() > limit:
                text = f"rank {min(missing)} of {world} has not come within {_START_SECONDS:g} s"
                raise MeshError(ErrorKind.ENGINE_FAILED, text)
            with contextlib.suppress(TimeoutError):
                connection = Connection(listener.accept()[0].detach())
                rank, pid = map(int, connection.recv_bytes().split())
                self._connections[rank], self._pids[rank] = connection, pid

    def send(self, message: Message) -> None:
        """Tell all ranks. Raises RankError if one is gone."""
        data = encode(message)
        for rank, connection in self._connections.items():
            try:
                connection.send_bytes(data)
            except OSError as error:
                raise RankError(f"rank {rank} cannot be told: {error}") from error

    def _watch(self, world: int) -> None:
        ranks = {connection: rank for rank, connection in self._connections.items()}
        while not self._closing.is_set():
            # They never write: what can be read is the end.
            if gone := wait(list(ranks), _LOOK_SECONDS):
                rank = ranks[cast(Connection, gone[0])]
                process = self._processes.get(rank)
                if process is not None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(_LOOK_SECONDS)
                why = _ended(rank, process)
            elif self._busy() > _STEP_SECONDS:
                why = f"a step of {world} ranks has taken more than {_STEP_SECONDS:g} s"
            else:
                continue
            if not self._closing.is_set():
                self._broken = True
                self._lost(why)
            return

    def close(self) -> None:
        """Stop the others, and undo what `start` did. Blocks for some seconds at most. Safe to call at any time."""
        self._closing.set()
        if not self._broken:  # else one that does not read might hold this up
            with contextlib.suppress(RankError):
                self.send(Stop())
        if self._watcher is not None:
            self._watcher.join()  # at once if all end, and after its next look at the latest
        for connection in self._connections.values():
            connection.close()
        for process in self._processes.values():
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._connections, self._processes = {}, {}
        if not self._broken:
            leave_group()  # else it might wait for who is gone, and the process is to end anyway
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _ended(rank: int, process: subprocess.Popen[bytes] | None) -> str:
    code = process.poll() if process is not None else None
    how = "" if code is None else f" by signal {-code}" if code < 0 else f" with exit code {code}"
    return f"rank {rank} has ended{how}"


def _device_of(device: torch.device, rank: int) -> str:
    return device.type if device.type == "cpu" else f"{device.type}:{(device.index or 0) + rank}"


def _bind_to_loopback() -> None:
    """gloo listens where this machine's name leads unless it is told better."""
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
