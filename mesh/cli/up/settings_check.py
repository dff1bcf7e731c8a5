"""Has each command check the settings that a file gives it, and tells what it says in the words of the file."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from mesh.cli.modules import command_line
from mesh.cli.up.document import Value, nearest
from mesh.cli.up.flags import Flags
from mesh.cli.up.plan import Service
from mesh.config import ConfigError

_LIMIT = 120.0
_UNKNOWN = re.compile(r"unknown argument '--([\w-]+)[^']*'(?:; did you mean --([\w-]+)\?)?")
_OWN = ("path", "name", "replicas", "devices", "aliases")


def check_settings(given: Sequence[tuple[Service, Value, Flags]]) -> list[ConfigError]:
    """What the commands say to their settings. Replicas of one section are asked once."""
    first = {section.path: (service, section, flags) for service, section, flags in reversed(given)}
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        said = pool.map(_complaint, [service for service, _, _ in first.values()])
        return [
            _in_words_of_the_file(text, section, flags, service)
            for text, (service, section, flags) in zip(said, first.values(), strict=True)
            if text
        ]


def _complaint(service: Service) -> str:
    """The sentence with which a command refuses its settings; empty if it takes them."""
    done = subprocess.run(
        command_line(service.module, *service.argv, "--check-settings"),
        env={**os.environ, **service.env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_LIMIT,
        check=False,
    )
    if done.returncode == 0:
        return ""
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return re.sub(r"^mesh-\w+: ", "", re.sub(r" \(see \S+ --help\)$", "", last))


def _in_words_of_the_file(text: str, section: Value, flags: Flags, service: Service) -> ConfigError:
    unknown = _UNKNOWN.match(text)
    if unknown is not None and unknown[1] in flags.values:
        own = _OWN if service.kind == "worker" else ()
        known = [*own, *([unknown[2]] if unknown[2] else [])]
        return flags.values[unknown[1]].error(f"is no setting of {service.kind}s{nearest(unknown[1], known)}")
    named = next((name for name in re.findall(r"--([a-z][\w-]*)", text) if name in flags.values), None)
    if named is None:
        return section.error(f"is wrong: {text}")
    value = flags.values[named]
    if text.startswith(f"--{named} "):
        return value.error(text.removeprefix(f"--{named} "))
    return value.error(f"is wrong: {text}")
