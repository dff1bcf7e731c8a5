"""`mesh data run`: several tools in one pass over the data, as a YAML file tells."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import yaml

from mesh.config import ConfigError, from_namespace, option
from training.data.segment import Named
from training.data.tools import TOOLS


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Run several tools in one pass, as a YAML file lists them."""

    pipeline: Path = option(
        help="The YAML file: under `steps` a list of tools, each a name, or a name with options.", positional=True
    )


def steps(path: Path) -> list[Named]:
    """The tools of a file. Raises ConfigError, with the file and the step."""
    try:
        given: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is no YAML: {' '.join(str(error).split())}") from None
    listed: Any = cast("dict[Any, Any]", given).get("steps") if isinstance(given, dict) else None
    if not isinstance(listed, list) or not listed or len(cast("dict[Any, Any]", given)) > 1:
        raise ConfigError(f"{path}: must hold `steps`, a list of tools, and nothing else")
    found: list[Named] = []
    for place, step in enumerate(cast("list[Any]", listed), 1):
        try:
            found.append(_step(step))
        except ConfigError as error:
            raise ConfigError(f"{path}, step {place}: {error}") from None
    return found


def _step(given: Any) -> Named:
    if isinstance(given, str):
        given = {given: {}}
    if not isinstance(given, dict) or len(cast("dict[Any, Any]", given)) != 1:
        raise ConfigError("must be the name of a tool, or a name and its options")
    ((name, options),) = cast("dict[Any, Any]", given).items()
    if name not in TOOLS:
        raise ConfigError(f"unknown tool '{name}'{_closest(str(name), TOOLS)}")
    if not isinstance(options or {}, dict):
        raise ConfigError(f"the options of {name} must be names and values")
    return Named(name, _tool(name, cast("dict[str, Any]", options or {})))


def _tool(name: str, options: Mapping[str, Any]) -> Any:
    kind = TOOLS[name]
    known = {spec.name: spec for spec in fields(kind)}
    given = {key.replace("-", "_"): value for key, value in options.items()}
    for key in given:
        if key not in known:
            raise ConfigError(f"{name} has no option '{key}'{_closest(key, known)}")
    values = {key: _text(value) for key, value in given.items()}
    return from_namespace(kind, argparse.Namespace(**{key: values.get(key) for key in known}), "", {})


def _text(value: Any) -> Any:
    """As a flag would give it: the options convert texts, and say what is wrong with them."""
    if isinstance(value, list):
        return [str(item) for item in cast("list[Any]", value)]
    return value if value is None or isinstance(value, bool) else str(value)


def _closest(name: str, known: Mapping[str, Any]) -> str:
    match = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {match[0]}?" if match else ""
