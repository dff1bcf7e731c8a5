"""`mesh doctor`: the checks, in order, and how their findings are shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from rich.table import Table
from rich.text import Text

from mesh.cli.admin import RegistryConfig
from mesh.cli.doctor import certificates, installation, machine, registry
from mesh.cli.doctor.finding import Finding
from mesh.cli.doctor.model import model
from mesh.cli.show import show
from mesh.cli.up import record
from mesh.cli.up.mesh_file import read_mesh_file
from mesh.cli.up.plan import Plan, plan_of
from mesh.cli.up.settings import UpConfig
from mesh.config import ConfigError, fail, option, parse
from mesh.errors import MeshError
from mesh.registry import EtcdError

_PROG = "mesh doctor"
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}
_CERTIFICATES = ("--tls-cert", "--tls-ca", "--worker-ca", "--worker-cert", "--etcd-ca", "--etcd-cert")
_KEYS = {"--tls-cert": "--tls-key", "--worker-cert": "--worker-key", "--etcd-cert": "--etcd-key"}


@dataclass(frozen=True)
class DoctorConfig(RegistryConfig):
    """Tell what is wrong with this installation. Exit code 1 if anything fails; warnings do not count."""

    etcd: str = option(
        "", "URL(s) of etcd, comma separated. Default: that of --config, else the registry of a mesh that runs here."
    )
    config: Path | None = option(None, "File of mesh up, whose ports, certificates and etcd are looked at.")
    model_path: tuple[str, ...] = option((), "Model to be looked at: a folder, a name on the hub, *.gguf; repeated.")
    only: tuple[str, ...] = option(
        (),
        "Check to make, repeated: python, packages, pins, protos, gpu, disk, limits, ports, certificates, registry or, "
        "with --model-path, model. Default: all.",
    )
    json: bool = option(False, "Print JSON.")


Check = Callable[[], list[Finding]]


class _Patient:
    """What is examined."""

    def __init__(self, config: DoctorConfig) -> None:
        self.config = config
        self.meshes = [mesh for mesh in record.read_all(record.state_dir(None)) if mesh.alive]
        self.plan = plan_of(UpConfig(webui=True)) if config.config is None else read_mesh_file(config.config)

    def checks(self) -> dict[str, Check]:
        """All checks by name, in order."""
        found: dict[str, Check] = {
            "python": installation.python,
            "packages": lambda: installation.packages(installation.requirements()),
            "pins": installation.pins,
            "protos": installation.protos,
            "gpu": machine.gpu,
            "disk": lambda: machine.disk(machine.folders()),
            "limits": machine.limits,
            "ports": lambda: machine.ports(_addresses(self.plan), self._held()),
            "certificates": self._certificates,
            "registry": lambda: asyncio.run(self._registry()),
        }
        if self.config.model_path:
            found["model"] = lambda: [finding for path in self.config.model_path for finding in model(path)]
        return found

    def _held(self) -> dict[str, str]:
        """Addresses that a mesh of this user has."""
        named = {mesh.registry: mesh.name for mesh in self.meshes}
        for mesh in self.meshes:
            named |= {each.address.rpartition("/")[2]: mesh.name for each in mesh.processes}
        return named

    def _certificates(self) -> list[Finding]:
        files, keys = _files(self.plan)
        given = self.config
        files += [file for file in (given.tls_ca, given.tls_cert, given.etcd_ca, given.etcd_cert) if file is not None]
        fitting = ((given.tls_cert, given.tls_key), (given.etcd_cert, given.etcd_key))
        keys += [(cert, key) for cert, key in fitting if cert is not None and key is not None]
        return certificates.certificates(dict.fromkeys(files)) + certificates.pairs(dict.fromkeys(keys))

    async def _registry(self) -> list[Finding]:
        options = self.config.etcd_options() if self.config.etcd else self.plan.registry
        if not self.config.etcd and self.plan.registry_port is not None:
            where = options.endpoints[0]
            if where not in {mesh.registry for mesh in self.meshes}:
                return [
                    Finding("etcd", "skip", f"no --etcd was given, and no mesh of this user has a registry at {where}")
                ]
        found = await registry.etcd(options)
        if any(finding.status == "fail" for finding in found) and len(options.endpoints) == 1:
            return found
        found += await registry.etcd_clocks(options)
        try:
            answers = await registry.ask_workers(self.config, options)
        except (EtcdError, MeshError) as error:
            return [*found, Finding("workers", "fail", str(error), "see etcd above")]
        records = [answer.record for answer in answers]
        return [*found, *registry.workers(answers), *registry.clocks(answers), *registry.fingerprints(records)]


def _addresses(plan: Plan) -> dict[str, str]:
    """host:port → the process that wants it."""
    wanted = {plan.registry.endpoints[0]: "the registry"} if plan.registry_port is not None else {}
    for service in plan.services:
        if service.address:
            wanted[urlsplit(service.address).netloc if "://" in service.address else service.address] = service.name
    return wanted


def _files(plan: Plan) -> tuple[list[Path], list[tuple[Path, Path]]]:
    """Certificates that the processes are given, and those with their keys."""
    files: list[Path] = []
    pairs: list[tuple[Path, Path]] = []
    for service in plan.services:
        given = dict(flag.split("=", 1) for flag in service.argv if flag.startswith("--") and "=" in flag)
        files += [Path(given[flag]) for flag in _CERTIFICATES if flag in given]
        pairs += [
            (Path(given[cert]), Path(given[key])) for cert, key in _KEYS.items() if cert in given and key in given
        ]
    return files, pairs


def main(argv: Sequence[str]) -> int:
    """Run `mesh doctor`; returns the exit code."""
    try:
        config = parse(DoctorConfig, prog=_PROG, env_prefix="MESH_DOCTOR_", argv=argv)
        findings = list(_examine(config))
    except ConfigError as error:
        fail(_PROG, str(error))
    except MeshError as error:
        fail(_PROG, error.message)
    if config.json:
        print(msgspec.json.format(msgspec.json.encode(findings)).decode())
    else:
        show(_table(findings))
    return 1 if any(finding.status == "fail" for finding in findings) else 0


def _examine(config: DoctorConfig) -> Iterator[Finding]:
    checks = _Patient(config).checks()
    unknown = [name for name in config.only if name not in checks]
    if unknown:
        raise ConfigError(f"--only must name checks, not {unknown[0]}; there are: {', '.join(checks)}")
    for name, check in checks.items():
        if not config.only or name in config.only:
            yield from check()


def _table(findings: Sequence[Finding]) -> Table:
    table = Table(box=None, show_header=False)
    table.add_column()
    table.add_column()
    table.add_column(overflow="fold")
    for finding in findings:
        colour = _COLOURS[finding.status]
        remedy = f"\n→ {finding.remedy}" if finding.remedy else ""
        table.add_row(Text(finding.status, style=colour), finding.check, finding.found + remedy)
    return table
