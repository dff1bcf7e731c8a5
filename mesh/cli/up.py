"""`mesh up`: a whole mesh on this machine with one command.

This process serves the registry, unless there is an etcd: it outlives the others, so that workers can sign off. One
Ctrl-C stops the web pages, the gateway, then the workers, and waits for them; a second one kills.

Once everything runs, workers and web pages that end by a fault are started again. A worker that was drained to its end
is left out. The end of the gateway, of the last worker, or of one that refuses its settings ends everything, as any end
does before.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import json
import os
import secrets
import shlex
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mesh import log
from mesh.cli.child import command
from mesh.cli.children import Child
from mesh.cli.client import GatewayClient
from mesh.cli.workers import list_workers
from mesh.config import ConfigError, fail, option, parse
from mesh.errors import ErrorKind, MeshError
from mesh.registry.embedded import EmbeddedRegistry
from mesh.registry.options import EtcdOptions
from mesh.version import version

_PROG = "mesh up"
_PAGES = "webui"
_POLL = 0.2
# Seconds before a worker that broke is started again: doubled each time, until one has run for long enough.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_LONG_ENOUGH = 60.0
# Who listens on the port may be somebody else, who never answers.
_PATIENCE = 2.0


@dataclass(frozen=True)
class UpConfig:
    """Run a whole mesh on this machine: registry, gateway and workers.

    All other settings of gateway, workers and web pages are taken from the environment, as MESH_GATEWAY_...,
    MESH_WORKER_... and MESH_WEBUI_...
    """

    model_path: tuple[str, ...] = option(
        (),
        "Folder with a Hugging Face model, its name on the hub, or a *.gguf file; may be repeated. Default: the two "
        "demonstration models, in one worker.",
    )
    workers: int = option(1, "Workers per model.", low=1, high=64)
    engine: Literal["transformers", "scripted"] = option("transformers", "What the workers run, as in mesh-worker.")
    host: str = option("127.0.0.1", "Address of the HTTP server.")
    port: int = option(8000, "Port of the HTTP server.", low=1, high=65535)
    worker_host: str = option("127.0.0.1", "Address of the workers' gRPC servers.")
    worker_port: int = option(50051, "Port of the first worker, counted up for the others; 0 picks free ones.", low=0)
    etcd: str | None = option(None, "URL(s) of etcd, comma separated. Default: a registry in this process.")
    registry_port: int = option(12379, "Port of the registry in this process.", low=1, high=65535)
    webui: bool = option(False, "Serve the arena's web pages too.")
    webui_port: int = option(7860, "Port of the web pages.", low=1, high=65535)

    def __post_init__(self) -> None:
        if self.engine == "scripted" and self.model_path:
            raise ConfigError("--model-path has no effect with --engine scripted, which makes up its answers")
        last = self.worker_port + self.workers * max(1, len(self.model_path)) - 1
        if last > 65535:
            raise ConfigError(f"--worker-port and --workers need the ports up to {last}, the last one is 65535")

    @property
    def url(self) -> str:
        """Where this machine reaches the gateway."""
        return self._url(self.port)

    @property
    def webui_url(self) -> str:
        """Where this machine reaches the web pages."""
        return self._url(self.webui_port)

    def _url(self, port: int) -> str:
        local = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{f'[{local}]' if local.count(':') > 1 and '[' not in local else local}:{port}"

    @property
    def registry(self) -> str:
        """Where the workers find the registry."""
        return self.etcd or f"127.0.0.1:{self.registry_port}"


@dataclass(frozen=True)
class Model:
    """What is to be served, and under which name."""

    name: str
    path: str | None


Load = tuple[Model, ...]
"""The models that one worker is to serve."""


class Mesh:
    """The processes of one `mesh up`."""

    def __init__(self, config: UpConfig, loads: Sequence[Load]) -> None:
        self.config = config
        self.loads = loads
        self.models = [model.name for load in loads for model in load]
        self._names = [f"worker-{index + 1}" for index in range(config.workers * len(loads))]
        self._ids = {name: _new_id(name) for name in self._names}
        self._left = set(self._names)  # those that were not drained to their end
        # The pages come last, when there is somebody for them to ask.
        self._all = ["gateway", *self._names, *([_PAGES] if config.webui else [])]
        self._width = max(map(len, self._all))
        self._registry = EtcdOptions.from_url(config.registry)
        self._children: list[Child] = []
        self._ready = False
        self._stopping = asyncio.Event()
        self._code = 0

    async def run(self) -> int:
        """Run until Ctrl-C, SIGTERM or an end that ends all; returns the exit code. A taken port is a MeshError."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        async with AsyncExitStack() as stack:
            if self.config.etcd is None:
                registry = EmbeddedRegistry()
                await registry.start("127.0.0.1", self.config.registry_port)
                stack.push_async_callback(registry.stop)
            await self._run_children()
        return self._code

    async def _run_children(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                start = group.create_task(self._start(group))
                await self._stopping.wait()
                start.cancel()
                await asyncio.wait({start})
                await self._stop()
        finally:
            for child in self._children:
                child.signal(signal.SIGKILL)

    async def _start(self, group: asyncio.TaskGroup) -> None:
        for number, name in enumerate(self._all):
            child = await Child.start(name, self._argv(name), number)
            self._children.append(child)
            group.create_task(self._follow(number, child))
        # The registry is asked first: unlike the gateway it does not log who asks how often.
        await _until(self._workers_are_registered)
        await _until(self._models_are_listed)
        if self.config.webui:
            await _until(self._pages_are_served)
        print(banner(self.config, self.models), flush=True)
        self._ready = True

    async def _follow(self, number: int, child: Child) -> None:
        """Show what a child writes until it has ended for good."""
        pause = _FIRST_PAUSE
        while True:
            began = time.monotonic()
            code = await child.copy_output(self._width)
            if self._stopping.is_set() or self._ended_for_good(child, code):
                return
            if time.monotonic() - began >= _LONG_ENOUGH:
                pause = _FIRST_PAUSE
            _say(f"{child.name} has ended with {_describe(code)}: starting it again in {pause:g} s")
            if await self._stopped_within(pause):
                return
            pause = min(2 * pause, _LONGEST_PAUSE)
            child = await self._start_again(number, child.name)

    def _ended_for_good(self, child: Child, code: int) -> bool:
        """Whether a child that has ended is not to be started again. Stops the others if they are of no use then."""
        worker = self._ready and child.name in self._left
        pages = self._ready and child.name == _PAGES
        if (worker or pages) and code not in (0, 2):
            return False
        if pages:
            _say(f"{child.name} has ended with {_describe(code)}: going on without it")
            return True
        if worker and code == 0:
            self._left.remove(child.name)
            if self._left:
                _say(f"{child.name} has ended as it was asked to: going on without it")
                return True
        _say(f"{child.name} has ended with {_describe(code)}: stopping the others")
        self._code = 2 if code == 2 else 0 if worker else 1
        self._stopping.set()
        return True

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    async def _start_again(self, number: int, name: str) -> Child:
        self._ids[name] = _new_id(name)  # the registry may still list the one before
        child = await Child.start(name, self._argv(name), number)
        self._children[number] = child
        if self._stopping.is_set():  # meanwhile, so `_stop` knew only the one before
            child.signal(signal.SIGTERM)
        return child

    async def _workers_are_registered(self) -> bool:
        try:
            return set(self._ids.values()) <= {record.worker_id for record in await list_workers(self._registry)}
        except MeshError:
            return False

    async def _models_are_listed(self) -> bool:
        client = GatewayClient(self.config.url, patience=_PATIENCE)
        try:
            return set(self.models) <= set(await asyncio.to_thread(client.models))
        except MeshError as error:
            return error.kind is ErrorKind.INVALID_API_KEY  # it answers, though not to us
        except ConnectionError:
            return False

    async def _pages_are_served(self) -> bool:
        return await asyncio.to_thread(_answers, f"{self.config.webui_url}/healthz")

    async def _stop(self) -> None:
        """The pages and the gateway first, so that no request is left when the workers are asked to end."""
        pages = [child for child in self._children if child.name == _PAGES]
        gateway = self._children[:1]
        workers = [child for child in self._children[1:] if child not in pages]
        for children in (pages, gateway, workers):
            for child in children:
                child.signal(signal.SIGTERM)
            await asyncio.gather(*(child.wait() for child in children))

    def _on_signal(self) -> None:
        if self._stopping.is_set():
            _say("killing")
            for child in self._children:
                child.signal(signal.SIGKILL)
            self._code = 130
        else:
            _say("stopping; Ctrl-C again kills")
            self._stopping.set()

    def _argv(self, name: str) -> list[str]:
        config = self.config
        if name in self._names:
            return self._worker_argv(name)
        if name == _PAGES:
            served = ("--host", config.host, "--port", str(config.webui_port), "--gateway", config.url)
            return command("webui", *served)
        return command("gateway", "--host", config.host, "--port", str(config.port), "--etcd", config.registry)

    def _worker_argv(self, name: str) -> list[str]:
        index = self._names.index(name)
        config, load = self.config, self.loads[index // self.config.workers]
        port = config.worker_port + index if config.worker_port else 0
        argv = ["--engine", config.engine]
        argv += ["--worker-id", self._ids[name], "--etcd", config.registry]
        argv += ["--host", config.worker_host, "--port", str(port)]
        for model in load:
            argv += ["--model-name", model.name]
            argv += ["--model-path", model.path] if model.path is not None else []
        return command("mesh.worker", *argv)


async def _until(check: Callable[[], Awaitable[bool]]) -> None:
    """Poll without a limit of its own: a model may take long to load, and a process that dies ends the wait."""
    while True:
        if await check():
            return
        await asyncio.sleep(_POLL)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE):
            return True
    except OSError:
        return False


def banner(config: UpConfig, names: Sequence[str]) -> str:
    """What a person needs to know once everything runs."""
    message = {"role": "user", "content": "Hello! What can you do?"}
    body = json.dumps({"model": names[0], "messages": [message], "stream": True})
    curl = f"curl -N {config.url}/v1/chat/completions -H 'content-type: application/json' -d {shlex.quote(body)}"
    return "\n".join(
        [
            "",
            f"  mesh {version()} is ready",
            "",
            f"  OpenAI API  {config.url}/v1",
            f"  models      {', '.join(names)}",
            f"  try         {curl}",
            f"  talk        mesh chat --url {config.url}",
            *([f"  arena       {config.webui_url}/{'' if len(names) > 1 else 'direct'}"] if config.webui else []),
            "  stop        Ctrl-C",
            "",
        ]
    )


def loads_of(config: UpConfig) -> list[Load]:
    """What is to be served, by worker. Models that people name get workers of their own, of which one may fail."""
    if config.engine == "scripted":
        return [(Model("scripted", None),)]
    if config.model_path:
        return [(Model(_model_name(path), path),) for path in config.model_path]
    from mesh.demo import MODELS, model_path

    return [tuple(Model(name, str(model_path(name))) for name in MODELS)]


def _model_name(path: str) -> str:
    """As the worker would name it: the last part, of a file without its ending."""
    return (Path(path).name or Path(path).resolve().name).removesuffix(".gguf")


def main(argv: Sequence[str]) -> int:
    """Run `mesh up`; returns the exit code."""
    try:
        config = _without_missing(parse(UpConfig, prog=_PROG, env_prefix="MESH_UP_", argv=argv))
    except ConfigError as error:
        fail(_PROG, str(error))
    os.environ.setdefault("MESH_LOG", "text")  # its children's lines are text too
    log.setup("up")
    try:
        return asyncio.run(Mesh(config, loads_of(config)).run())
    except MeshError as error:
        fail(_PROG, error.message)


def _without_missing(config: UpConfig) -> UpConfig:
    """The settings, without what is not installed."""
    if config.webui and importlib.util.find_spec("gradio") is None:
        _say("no web pages: they need pip install 'inference-mesh[webui]'")
        return dataclasses.replace(config, webui=False)
    return config


def _new_id(name: str) -> str:
    return f"{socket.gethostname()}-{name}-{secrets.token_hex(2)}"


def _say(text: str) -> None:
    print(f"{_PROG}: {text}", file=sys.stderr, flush=True)


def _describe(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
