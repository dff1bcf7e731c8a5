"""`mesh-gateway --processes N`: several gateways on one port, and the process that keeps them alive.

Each child is a whole gateway with a listening socket of its own, among which the kernel spreads the connections. The
sockets belong to this process: what waits to be accepted when a child dies is served by its successor. Without etcd one
more child is the registry, and nothing else.

This process forks, and therefore runs no event loop, no thread and nothing of gRPC.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from gateway.config import GatewayConfig
from gateway.processes import Seat
from gateway.sockets import listen_together
from mesh.errors import invalid
from mesh.log import kv

log = logging.getLogger(__name__)

# Seconds before a child that died is started again: doubled each time, until one has lived for long enough.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_LONG_ENOUGH = 60.0
# Seconds within which the registry must be there.
_REGISTRY_LIMIT = 30.0
# Seconds beyond the limit of a drain that children have for the rest of their way out.
_GRACE = 15.0
_SIGNALS = frozenset((signal.SIGCHLD, signal.SIGTERM, signal.SIGINT))

# Runs a gateway to its end.
GatewayMain = Callable[[GatewayConfig, Seat], None]
# Runs the registry, until the other end of a pipe is closed; writes its address, one line, to a second one.
RegistryMain = Callable[[GatewayConfig, int, int], None]


@dataclass
class _Child:
    """A place for a process, and the one that has it (0: none). `due`: when it is to be started."""

    name: str
    main: Callable[[], None]
    pid: int = 0
    starts: int = 0
    began: float = 0.0
    pause: float = _FIRST_PAUSE
    due: float = field(default_factory=time.monotonic)


class Supervisor:
    """`run` it once."""

    def __init__(self, config: GatewayConfig, gateway: GatewayMain, registry: RegistryMain) -> None:
        self._config = config
        self._gateway = gateway
        self._registry = registry
        self._alive, self._life = os.pipe()  # children read the first, and see the end of this process
        self._registries: list[_Child] = []
        self._gateways: list[_Child] = []
        self._sockets: list[socket.socket] = []
        self._stopping = False
        self._kill_at = float("inf")
        self._code = 0

    def run(self) -> int:
        """Until SIGTERM or SIGINT, of which the second makes haste, and the end of all children; returns the exit code.
        Raises MeshError for settings that cannot be used."""
        config = self._config
        if sys.platform != "linux":
            raise invalid("processes", "'processes' above 1 needs Linux, where the kernel spreads the connections")
        self._sockets = listen_together(config.host, config.port, config.processes)
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        folder = Path(tempfile.mkdtemp(prefix="mesh-gateway-"))
        try:
            if config.etcd is None:
                config = replace(config, etcd=self._start_registry())
            for index, sock in enumerate(self._sockets):
                seat = Seat(index, config.processes, sock, folder, self._alive)
                self._gateways.append(_Child(f"gateway {index}", lambda seat=seat: self._sit(config, seat)))
            while self._turn():
                pass
        finally:
            self._signal(signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)
        return self._code

    def _start_registry(self) -> str:
        """Start it and return its address. It keeps its port when it is started again."""
        told, tell = os.pipe()
        child = _Child("registry", lambda: self._registry(self._config, self._alive, tell))
        self._fork(child)
        os.close(tell)
        ready, _, _ = select.select([told], [], [], _REGISTRY_LIMIT)
        address = os.read(told, 1000).decode().strip() if ready else ""
        os.close(told)
        if not address:
            raise SystemExit(2)  # it has said why
        at = replace(self._config, registry_port=int(address.rpartition(":")[2]))
        child.main = lambda: self._registry(at, self._alive, os.open(os.devnull, os.O_WRONLY))
        self._registries.append(child)
        return address

    def _sit(self, config: GatewayConfig, seat: Seat) -> None:
        for sock in self._sockets:
            if sock is not seat.socket:
                sock.close()
        self._gateway(config, seat)

    # The children

    def _turn(self) -> bool:
        """Start whom it is time for, then wait for a signal or for the next such time; False when all is over."""
        children = (*self._gateways, *self._registries)
        now = time.monotonic()
        due = [child for child in children if not child.pid and not self._stopping]
        for child in due:
            if child.due <= now:
                self._fork(child)
        if now >= self._kill_at:
            self._signal(signal.SIGKILL)
        moments = [child.due for child in due if not child.pid] + [min(self._kill_at, now + 60.0)]
        found = signal.sigtimedwait(_SIGNALS, max(0.0, min(moments) - now))
        if found is not None and found.si_signo != signal.SIGCHLD:
            self._stop()
        for child in children:
            self._reap(child)
        if self._stopping and not any(child.pid for child in self._gateways):
            for child in self._registries:  # last, so that nothing is missed on the way out
                self._kill(child, signal.SIGTERM)
        return not self._stopping or any(child.pid for child in children)

    def _fork(self, child: _Child) -> None:
        sys.stderr.flush()
        child.began = time.monotonic()
        child.starts += 1
        child.pid = os.fork()
        if not child.pid:
            self._become(child.main)

    def _become(self, main: Callable[[], None]) -> NoReturn:
        """In the child: run its part, and never return to what the parent was doing."""
        code = 1
        try:
            os.close(self._life)
            os.setpgid(0, 0)  # a Ctrl-C in the terminal is for the parent, which passes it on
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            log.exception("a process of the gateway broke")
        finally:
            with contextlib.suppress(OSError):
                sys.stderr.flush()
            os._exit(code)

    def _reap(self, child: _Child) -> None:
        """See whether a child has ended, and when its successor is due."""
        if not child.pid:
            return
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if not pid:
            return
        code, child.pid = os.waitstatus_to_exitcode(status), 0
        if self._stopping:
            return
        if code == 2 and child.starts == 1:
            self._code = 2  # it has refused its settings, and said why
            self._stop()
            return
        now = time.monotonic()
        if now - child.began >= _LONG_ENOUGH:
            child.pause = _FIRST_PAUSE
        child.due = now + child.pause
        log.error("a process has ended, starting it again", extra=kv(process=child.name, code=code, pause=child.pause))
        child.pause = min(2 * child.pause, _LONGEST_PAUSE)

    def _stop(self) -> None:
        """Let all gateways drain; called again, they make haste."""
        self._stopping = True
        for sock in self._sockets:  # so that no connection comes any more once the children have closed theirs
            sock.close()
        self._kill_at = min(self._kill_at, time.monotonic() + self._config.drain_timeout + _GRACE)
        for child in self._gateways:
            self._kill(child, signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        for child in (*self._gateways, *self._registries):
            self._kill(child, number)

    @staticmethod
    def _kill(child: _Child, number: signal.Signals) -> None:
        if child.pid:
            os.kill(child.pid, number)
