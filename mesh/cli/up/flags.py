"""Flags of a command, as a section of mesh.yaml gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from mesh.cli.up.document import Value
from mesh.cli.up.plan import Kind

# `ps` shows the flags of a process to everybody on the machine, but not its environment.
_SECRET = {"join-token", "etcd-password", "api-key"}
# Flags that are repeated as name=value; here they may be a mapping.
_PAIRS = {"lora", "label", "vllm-option"}
_ETCD = dict.fromkeys(
    ("etcd", "etcd-ca", "etcd-cert", "etcd-key", "etcd-user", "etcd-password"), "is for the whole file: etcd at its top"
)
RESERVED: Mapping[Kind, Mapping[str, str]] = {
    "gateway": {
        **_ETCD,
        "registry-host": "is not served by this gateway: registry-port at the top of the file",
        "registry-port": "belongs to the top of the file",
    },
    "worker": {
        **_ETCD,
        "model-path": "is called path here",
        "model-name": "is called name here",
        "worker-id": "is made by mesh up",
        "port": "is counted up from worker-port at the top of the file",
        "metrics-port": "is the worker's port plus 1000",
        "register": "is what mesh up waits for",
    },
}
_PREFIX: Mapping[Kind, str] = {"gateway": "MESH_GATEWAY_", "worker": "MESH_WORKER_", "webui": "MESH_WEBUI_"}


@dataclass
class Flags:
    """A command line, variables for secrets, and where each flag comes from."""

    argv: list[str] = field(default_factory=list[str])
    secrets: dict[str, str] = field(default_factory=dict[str, str])
    values: dict[str, Value] = field(default_factory=dict[str, Value])
    variables: dict[str, str] = field(default_factory=dict[str, str])

    def plus(self, argv: Iterable[str], variables: Mapping[str, str]) -> Self:
        """The same with more."""
        return type(self)([*self.argv, *argv], self.secrets, self.values, {**self.variables, **variables})

    def env(self, kind: Kind) -> dict[str, str]:
        """The variables of the process."""
        named = {_PREFIX[kind] + name.replace("-", "_").upper(): text for name, text in self.secrets.items()}
        return {**named, **self.variables}


def flags_of(
    section: Mapping[str, Value],
    own: Iterable[str],
    reserved: Mapping[str, str],
    etcd: Mapping[str, str] | None = None,
) -> Flags:
    """The flags of a section, without its `own` keys; raises ConfigError for those that `mesh up` sets itself."""
    flags = Flags()
    for part, text in (etcd or {}).items():
        _add(flags, "etcd" if part == "url" else f"etcd-{part}", text)
    for name, value in section.items():
        if name in own:
            continue
        if name in reserved:
            raise value.error(reserved[name])
        flags.values[name] = value
        for text in _texts(name, value):
            _add(flags, name, text)
    return flags


def _texts(name: str, value: Value) -> list[str | bool]:
    if value.is_section and name in _PAIRS:
        return [f"{key}={each.text()}" for key, each in value.section().items()]
    if value.is_list:
        return list(value.texts())
    text = value.text()
    if not value.is_boolean:
        return [text]
    if text.lower() not in ("true", "false"):
        raise value.error(f"must be true or false, or '{text}' in quotes where it is a text")
    return [text.lower() == "true"]


def _add(flags: Flags, name: str, given: str | bool) -> None:
    if isinstance(given, bool):
        flags.argv.append(f"--{name}" if given else f"--no-{name}")
    elif name in _SECRET:
        flags.secrets[name] = given
    else:
        flags.argv.append(f"--{name}={given}")
