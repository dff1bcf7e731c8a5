"""A gateway and its workers as processes, whoever made them: what every measurement starts, asks and breaks."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

from benchmarks.processes import Process, free_port, wait_http
from benchmarks.systems.answer import ask
from benchmarks.systems.etcd_server import EtcdServer
from benchmarks.systems.tcp_proxy import TcpProxy

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL = "bench"
_WORKERS = Path(__file__).parent / "workers"
_DEMO = ROOT / "mesh" / "demo" / "models" / "mesh-demo-mini"
_CONTEXT = 1_000_000
_START_LIMIT = 90.0
_SETTLE_PATIENCE = 5.0
_POLL = 0.02

FaultKind = Literal[
    "exhausted",
    "unavailable",
    "internal",
    "slow_first_token",
    "stall",
    "cut",
    "garbage",
    "nonsense",
    "duplicate",
    "out_of_order",
    "no_finish",
    "wrong_usage",
    "wrong_model",
]


class Inexpressible(Exception):
    """A system has nothing that the scenario could be done to; the message says what is missing."""


@dataclass(frozen=True)
class Fault:
    """What the next request meets, once, on whichever worker it comes to; `after` so many tokens of its answer."""

    kind: FaultKind
    after: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Pace:
    """How fast a worker answers, in seconds: per token, and before the first one."""

    step: float = 0.02
    prefill: float = 0.1


@dataclass(frozen=True)
class Setup:
    """What is started: a worker for each pace, so many gateways, and what is around them.

    `between` gateway and workers is nothing, a TCP proxy for each worker, or what makes `arm` work. `output` takes what
    all processes print, `gateway_env` is added to the environment of gateways. `guarded`: whether what a system has
    against faults is switched on where it is off by default.
    """

    workers: tuple[Pace, ...] = (Pace(), Pace())
    gateways: int = 1
    between: Literal["nothing", "tcp", "faults"] = "nothing"
    output: Path | None = None
    gateway_env: tuple[tuple[str, str], ...] = ()
    gateway_core: int | None = None
    worker_core: int | None = None
    slots: int = 64
    guarded: bool = True


class System(ABC):
    """`async with` it: then the gateway answers, and every worker has answered."""

    name: ClassVar[str]
    # A folder with bin/python of the environment that it runs in, below the root; ours runs in this one.
    environment: ClassVar[str] = ""
    worker_script: ClassVar[str] = ""
    uses_etcd: ClassVar[bool] = False

    def __init__(self, folder: Path, setup: Setup) -> None:
        self.folder = folder
        self.setup = setup
        self.gateways: list[Process] = []
        self.workers: list[Process] = []
        self.etcd: EtcdServer | None = None
        self.ready_seconds = 0.0
        self.ports = [free_port() for _ in range(setup.gateways)]
        self.worker_ports = [free_port() for _ in setup.workers]
        self.proxies: list[TcpProxy] = []
        self._helpers: list[Process] = []

    @classmethod
    def installed(cls) -> bool:
        """Whether its environment is there."""
        return not cls.environment or (ROOT / cls.environment / ".installed").is_file()

    @property
    def port(self) -> int:
        """Of the first gateway."""
        return self.ports[0]

    def url(self, gateway: int = 0) -> str:
        """Of a gateway."""
        return f"http://127.0.0.1:{self.ports[gateway]}"

    # What differs

    @abstractmethod
    def gateway_command(self, place: int) -> Sequence[str]:
        """Starts a gateway."""

    def gateway_env(self) -> Mapping[str, str]:
        """The gateway's environment, besides ours."""
        return {}

    def helper_commands(self) -> Mapping[str, Sequence[str]]:
        """Processes that must run before all else, by name."""
        return {}

    def registry(self) -> str:
        """Where a worker announces itself."""
        return ""

    def worker_command(self, place: int) -> Sequence[str]:
        """Starts a worker."""
        pace = self.setup.workers[place]
        options: dict[str, Any] = {
            "name": place,
            "folder": self.folder,
            "port": self.worker_ports[place],
            "advertise": self.reached(place),
            "model": MODEL,
            "model-folder": self.model_folder,
            "registry": self.registry(),
            "step": pace.step,
            "prefill": pace.prefill,
        }
        flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        return [self.binary("python"), str(_WORKERS / self.worker_script), *flags]

    def worker_env(self) -> Mapping[str, str]:
        """A worker's environment, besides ours."""
        return {}

    def reached(self, place: int) -> int:
        """The port at which the gateway finds a worker."""
        return self.proxies[place].port if self.setup.between == "tcp" else self.worker_ports[place]

    def arm(self, fault: Fault) -> None:
        """Let the next request meet a fault."""
        staged = self.folder / "arming"
        staged.write_text(json.dumps(asdict(fault)))
        staged.rename(self.folder / "armed")

    def disarm(self) -> bool:
        """Take back a fault that nobody has met; whether somebody has."""
        armed = self.folder / "armed"
        met = not armed.exists()
        armed.unlink(missing_ok=True)
        return met

    def forget_serving(self) -> None:
        """From now on `serving` waits for a request that comes later."""
        (self.folder / "serving").unlink(missing_ok=True)

    async def serving(self) -> int:
        """Which worker has the latest request; waits for one."""
        async with asyncio.timeout(_START_LIMIT):
            while not (text := _read(self.folder / "serving")):
                await asyncio.sleep(_POLL / 10)
        return int(text)

    async def live_rows(self) -> int:
        """Requests that are live on all workers."""
        return sum(int(_read(path) or 0) for path in self.folder.glob("rows-*"))

    # What does not

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException as error:
            await self.__aexit__(type(error), error, None)
            raise
        return self

    async def _start(self) -> None:
        if self.uses_etcd:
            self.etcd = await EtcdServer(self.folder).__aenter__()
        if self.setup.between == "tcp":
            for port in self.worker_ports:
                self.proxies.append(await TcpProxy(port).__aenter__())
        for name, command in self.helper_commands().items():
            self._helpers.append(Process(name, command, self.folder, env=self.gateway_env()))
        for place in range(len(self.setup.workers)):
            self.workers.append(self._worker(place))
        for place in range(len(self.setup.workers)):
            await self._listening(place)
        for place in range(self.setup.gateways):
            self.gateways.append(self.start_gateway(place))
        for place, gateway in enumerate(self.gateways):
            seconds = await asyncio.to_thread(wait_http, gateway, self.ports[place], self.health_path)
            self.ready_seconds = max(self.ready_seconds, seconds)
        await self.settle()

    health_path: ClassVar[str] = "/v1/models"

    def start_gateway(self, place: int) -> Process:
        """Start a gateway's process; does not wait."""
        return Process(
            f"gateway-{place}",
            self.gateway_command(place),
            self.folder,
            core=self.setup.gateway_core,
            env={**self.gateway_env(), **dict(self.setup.gateway_env)},
            output=self.setup.output,
        )

    def _worker(self, place: int) -> Process:
        return Process(
            f"worker-{place}",
            self.worker_command(place),
            self.folder,
            core=self.setup.worker_core,
            env=self.worker_env(),
            output=self.setup.output,
        )

    async def _listening(self, place: int) -> None:
        """Wait until a worker takes connections."""
        async with asyncio.timeout(_START_LIMIT):
            while not _connects(self.worker_ports[place]):
                self.workers[place].check()
                await asyncio.sleep(_POLL)

    async def restart_worker(self, place: int) -> None:
        """Make sure that a worker is gone, start it again, and wait until it takes connections."""
        await asyncio.to_thread(self.workers[place].kill)
        self.workers[place] = self._worker(place)
        await self._listening(place)

    async def restart_workers(self) -> None:
        """Start again every worker that has ended or is about to."""
        for place in range(len(self.workers)):
            await self.restart_worker(place)
        await self.settle()

    async def renew(self) -> None:
        """Start again what has ended, and wait until all is in use."""
        for process in [*self.gateways, *self._helpers]:
            process.check()
        for place, worker in enumerate(self.workers):
            if not worker.running:
                await self.restart_worker(place)
        await self.settle()

    async def settle(self) -> None:
        """Wait until the gateway answers through each worker: so many answers in a row that each had its turn."""
        good, needed = 0, 3 * len(self.workers)
        async with asyncio.timeout(_START_LIMIT):
            while good < needed:
                answer = await ask(self.url(), self.body(max_tokens=1), patience=_SETTLE_PATIENCE)
                good = 0 if answer.error else good + 1
                if not good:
                    self.gateways[0].check()
                    await asyncio.sleep(_POLL)

    def body(self, **fields: Any) -> dict[str, Any]:
        """A chat request."""
        return {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Tell me about the sea."}],
            "temperature": 0,
            "max_tokens": 20,
            **fields,
        }

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in [*self.gateways, *self.workers, *self._helpers]:
            await asyncio.to_thread(process.kill)
        for proxy in self.proxies:
            await proxy.__aexit__(None, None, None)
        if self.etcd is not None:
            await self.etcd.__aexit__(None, None, None)

    def binary(self, name: str) -> str:
        """A program of its environment."""
        return str(ROOT / self.environment / "bin" / name) if self.environment else sys.executable

    @property
    def model_folder(self) -> Path:
        """The demo model's tokenizer, with a context that no answer fills."""
        folder = self.folder / "model"
        if not folder.exists():
            shutil.copytree(_DEMO, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.md"))
            config = json.loads((folder / "config.json").read_text())
            config["max_position_embeddings"] = _CONTEXT
            (folder / "config.json").write_text(json.dumps(config))
        return folder


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _connects(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
