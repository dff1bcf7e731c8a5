"""mesh.yaml: what one machine runs, in a file.

Own keys (replicas, devices, aliases, ...) are read here. All others are the flags of the command that gets them, by
their own names without dashes in front, and are checked by that command itself (settings_check.py), so that this file
cannot say anything that the command line cannot, and every error names its line. All errors are told at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mesh.cli.up import devices
from mesh.cli.up.document import Value, nearest, read_document
from mesh.cli.up.flags import RESERVED, Flags, flags_of
from mesh.cli.up.plan import Kind, Plan, Service, local_url, model_name
from mesh.cli.up.settings_check import check_settings
from mesh.config import ConfigError
from mesh.errors import MeshError
from mesh.registry.options import EtcdOptions

_TOP = ("etcd", "registry-port", "worker-port", "gateways", "models", "webui")
_ETCD = ("url", "ca", "cert", "key", "user", "password")
_MODEL = ("path", "name", "replicas", "devices", "aliases")
_MOST_REPLICAS = 64
_LAST_PORT = 65535
_PORTS: Mapping[Kind, int] = {"gateway": 8000, "worker": 50051, "webui": 7860}
_REGISTRY_PORT = 12379


class Problems:
    """The errors of a file, told at once."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, error: ConfigError) -> None:
        """Keep one."""
        self._found.append(str(error))

    @contextmanager
    def kept(self) -> Generator[None]:
        """Keep the error of this part, and let the next part be read."""
        try:
            yield
        except ConfigError as error:
            self.add(error)

    def raise_all(self) -> None:
        """Raise them, one a line, in the order of the file."""
        lines = sorted(dict.fromkeys(self._found), key=_line_of)
        if lines:
            raise ConfigError("\n".join(lines if len(lines) == 1 else [f"{len(lines)} errors:", *lines]))


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A service, the section that asks for it, and its flags."""

    service: Service
    section: Value
    flags: Flags


def read_mesh_file(path: Path) -> Plan:
    """The plan that a file gives; raises ConfigError with a line for each thing that is wrong."""
    problems = Problems()
    reader = _Reader(path, problems)
    plan = reader.plan()
    for error in check_settings([(entry.service, entry.section, entry.flags) for entry in reader.entries]):
        problems.add(error)
    problems.raise_all()
    return plan


class _Reader:
    def __init__(self, path: Path, problems: Problems) -> None:
        self.entries: list[_Entry] = []
        self._problems = problems
        self._document = read_document(path)
        self._top = self._document.section()
        self._aliases: dict[str, str] = {}
        self._ports: dict[int, str] = {}
        self._paths: dict[str, str] = {}  # of models, by name
        self._etcd: dict[str, str] = {}

    def plan(self) -> Plan:
        with self._problems.kept():
            _refuse_others(self._top, _TOP)
        registry, port = self._registry()
        for section in self._sections("gateways", default=True):
            with self._problems.kept():
                self._gateway(section)
        for section in self._sections("models"):
            with self._problems.kept():
                self._model(section)
        if "webui" in self._top:
            with self._problems.kept():
                self._webui(self._top["webui"])
        if not self._problems:
            with self._problems.kept():
                self._check_whole(port)
        return Plan(registry, port, tuple(entry.service for entry in self.entries), self._aliases)

    def _sections(self, key: str, *, default: bool = False) -> list[Value]:
        if key not in self._top:
            return [self._document] if default else []
        with self._problems.kept():
            return self._top[key].items()
        return []

    def _registry(self) -> tuple[EtcdOptions, int | None]:
        """Where the registry is, and its port if it is in the process of `mesh up`."""
        port = _REGISTRY_PORT
        with self._problems.kept():
            if "registry-port" in self._top:
                port = self._top["registry-port"].whole(1, _LAST_PORT)
                if "etcd" in self._top:
                    raise self._top["registry-port"].error("has no effect with etcd")
            if "etcd" in self._top:
                options = self._read_etcd(self._top["etcd"])
                return options, None
            self._take_port(port, "the registry", self._top.get("registry-port"))
        self._etcd = {"url": f"127.0.0.1:{port}"}
        return EtcdOptions.from_url(self._etcd["url"]), port

    def _read_etcd(self, given: Value) -> EtcdOptions:
        if given.is_section:
            section = given.section()
            _refuse_others(section, _ETCD)
            if "url" not in section:
                raise given.error("needs url")
            self._etcd = {name: value.text() for name, value in section.items()}
        else:
            self._etcd = {"url": ",".join(given.texts())}
        ca, cert, key = (Path(self._etcd[name]) if name in self._etcd else None for name in ("ca", "cert", "key"))
        user, password = self._etcd.get("user"), self._etcd.get("password")
        try:
            return EtcdOptions.from_url(self._etcd["url"], ca=ca, cert=cert, key=key, user=user, password=password)
        except MeshError as error:
            raise given.error(f"is wrong: {error.message}") from None

    def _gateway(self, section: Value) -> None:
        given = {} if section is self._document else section.section()
        number = len([entry for entry in self.entries if entry.service.kind == "gateway"]) + 1
        flags = flags_of(given, (), RESERVED["gateway"], self._etcd)
        self._add_server("gateway", "gateway" if number == 1 else f"gateway-{number}", section, given, flags)

    def _webui(self, section: Value) -> None:
        given = section.section()
        flags = flags_of(given, (), {})
        if "gateway" not in given:
            gateways = [entry.service for entry in self.entries if entry.service.kind == "gateway"]
            if not gateways:
                raise section.error("needs gateway, the URL of one, as this file has none")
            flags.argv += ["--gateway", gateways[0].address]
        self._add_server("webui", "webui", section, given, flags)

    def _add_server(self, kind: Kind, name: str, section: Value, given: Mapping[str, Value], flags: Flags) -> None:
        default = _PORTS[kind]
        port = given["port"].whole(1, _LAST_PORT) if "port" in given else default
        self._take_port(port, name, given.get("port", section))
        if "port" not in given:
            flags.argv += ["--port", str(port)]
        host = given["host"].text() if "host" in given else "127.0.0.1"
        address = local_url(host, port, "https" if "tls-cert" in given else "http")
        service = Service(kind, name, tuple(flags.argv), address, env=flags.env(kind))
        self.entries.append(_Entry(service, section, flags))

    def _model(self, section: Value) -> None:
        given = section.section()
        where = devices.read(given["devices"]) if "devices" in given else []
        replicas = given["replicas"].whole(1, _MOST_REPLICAS) if "replicas" in given else len(where) or 1
        if len(where) not in (0, 1, replicas):
            raise given["devices"].error(f"must have one item, or one for each of the {replicas} replicas")
        flags = flags_of(given, _MODEL, RESERVED["worker"], self._etcd)
        name = self._name(section, given)
        if "path" in given:
            flags.argv += ["--model-path", given["path"].text()]
        flags.argv += ["--model-name", name]
        self._keep_aliases(name, given)
        placed = devices.place(given["devices"], where, _engine(given)) if where else [devices.NOWHERE]
        for index in range(replicas):
            self._add_worker(name, section, given, flags.plus(*placed[index % len(placed)]))

    def _add_worker(self, model: str, section: Value, given: Mapping[str, Value], flags: Flags) -> None:
        index = len([entry for entry in self.entries if entry.service.kind == "worker"])
        first = self._top["worker-port"].whole(0, _LAST_PORT) if "worker-port" in self._top else _PORTS["worker"]
        port = first + index if first else 0
        name = f"worker-{index + 1}"
        if port:
            self._take_port(port, name, self._top.get("worker-port", section))
        host = given["host"].text() if "host" in given else "127.0.0.1"
        argv = (*flags.argv, "--port", str(port))
        address = f"{host}:{port}" if port else ""
        service = Service("worker", name, argv, address, (model,), flags.env("worker"))
        self.entries.append(_Entry(service, section, flags))

    def _name(self, section: Value, given: Mapping[str, Value]) -> str:
        """What the model is called; the same name twice must mean the same model."""
        engine = _engine(given)
        if "path" not in given and engine in ("transformers", "vllm"):
            raise section.error("needs path: a folder with a Hugging Face model, its name on the hub or a *.gguf file")
        model = next((given[key].text() for key in ("path", "remote-model") if key in given), engine)
        name = given["name"].text() if "name" in given else model_name(model) if "path" in given else model
        if self._paths.setdefault(name, model) != model:
            raise given.get("name", section).error(
                f"gives {name} to a second model; the first one is {self._paths[name]}"
            )
        return name

    def _keep_aliases(self, model: str, given: Mapping[str, Value]) -> None:
        if "aliases" not in given:
            return
        for alias in given["aliases"].texts():
            if not alias or self._aliases.setdefault(alias, model) != model:
                raise given["aliases"].error(f"gives '{alias}' to {model}, which is {self._aliases.get(alias)} already")

    def _take_port(self, port: int, name: str, where: Value | None) -> None:
        if port > _LAST_PORT:
            raise (where or self._document).error(f"leads to port {port} for {name}, the last one is {_LAST_PORT}")
        if port in self._ports:
            raise (where or self._document).error(f"needs port {port} for {name}, which {self._ports[port]} has")
        self._ports[port] = name

    def _check_whole(self, registry_port: int | None) -> None:
        kinds = {entry.service.kind for entry in self.entries}
        if not kinds & {"gateway", "worker"}:
            raise self._document.error("has nothing to run: neither gateways nor models")
        if registry_port is not None and "worker" not in kinds:
            raise self._document.error("has no models, so its gateways need etcd, where those of other machines are")
        if registry_port is not None and "gateway" not in kinds:
            raise self._document.error("has no gateways, so it needs etcd, where those of other machines look")
        for alias, model in self._aliases.items():
            if alias in self._paths and alias != model:
                raise self._document.error(f"has {alias} as an alias of {model} and as a model")


def _engine(model: Mapping[str, Value]) -> str:
    return model["engine"].text() if "engine" in model else "transformers"


def _refuse_others(section: Mapping[str, Value], known: tuple[str, ...]) -> None:
    for name, value in section.items():
        if name not in known:
            raise value.error(f"is not known here{nearest(name, known)} (there are: {', '.join(known)})")


def _line_of(problem: str) -> int:
    number = problem.split(":")[1] if problem.count(":") > 1 else ""
    return int(number) if number.isdigit() else 0
