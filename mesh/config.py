"""A frozen dataclass becomes command-line flags and environment variables; typos in either are refused.

    @dataclass(frozen=True)
    class GatewayConfig:
        port: int = option(8000, "Port of the HTTP server.", low=0, high=65535)

    config = parse(GatewayConfig, prog="mesh-gateway", env_prefix="MESH_GATEWAY_")

gives `--port 8000` and MESH_GATEWAY_PORT=8000. A flag wins over the environment, the environment over the default.
Field types: str, int, float, bool, Path, ByteSize, Literal of strings, each also `| None`, and tuple[str, ...] (flag
repeated; comma separated in the environment). Errors are one sentence on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from mesh.errors import MeshError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Option:
    help: str
    low: float | None
    high: float | None
    metavar: str | None
    positional: bool


def option(
    default: Any = MISSING,
    help: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    metavar: str | None = None,
    positional: bool = False,
    secret: bool = False,
) -> Any:
    """Declare a field: its default (none makes it required), its help, and the limits of a number (inclusive).

    A secret is left out where the configuration is shown as a whole.
    """
    meta = {"option": _Option(help, low, high, metavar, positional)}
    if default is MISSING:
        return field(metadata=meta, repr=not secret)
    return field(default=default, metadata=meta, repr=not secret)


class ByteSize(int):
    """A number of bytes, written as 4GiB, 512MB or 1000000."""

    _UNITS = types.MappingProxyType(
        {"": 1, "b": 1}
        | {unit + "ib": 1024**power for power, unit in enumerate("kmgt", 1)}
        | {unit + "b": 1000**power for power, unit in enumerate("kmgt", 1)}
    )

    def __new__(cls, given: int | str) -> ByteSize:
        """Raises ValueError for what is no number with a unit."""
        if isinstance(given, int):
            return super().__new__(cls, given)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", given.strip().lower())
        if match is None or match[2] not in cls._UNITS:
            raise ValueError(given)
        return super().__new__(cls, round(float(match[1]) * cls._UNITS[match[2]]))

    def __str__(self) -> str:
        return f"{self / 1024**3:.3g}GiB" if self >= 1024**3 else f"{self / 1024**2:.3g}MiB"


class ConfigError(ValueError):
    """A setting that cannot be used; the message is one sentence naming it."""


def fail(prog: str, message: str) -> NoReturn:
    """End the process as all commands do on bad input: one sentence, exit code 2, no traceback."""
    sys.stderr.write(f"{prog}: {message}\n")
    raise SystemExit(2)


def parse(
    cls: type[T],
    *,
    prog: str,
    env_prefix: str,
    argv: Sequence[str] | None = None,
    environ: Mapping[str, str] | None = None,
    description: str | None = None,
    siblings: Sequence[type[Any]] = (),
    check: Callable[[T], object] | None = None,
) -> T:
    """Build `cls` from flags and environment, or end the process with exit code 2 and one sentence.

    `siblings` are the settings of commands with the same prefix, whose variables may be set as well. With `check`,
    which may raise MeshError, there is a flag --check-settings that ends the process with code 0 if all is well.
    """
    parser = Parser(prog=prog, description=description or cls.__doc__, allow_abbrev=False)
    environ = os.environ if environ is None else environ
    add_options(parser, cls, env_prefix)
    parser.shown = settings(cls, env_prefix)
    if check is not None:
        parser.add_argument("--check-settings", action="store_true", help="Check the settings, and end.")
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        flags = [string for action in parser._actions for string in action.option_strings]  # pyright: ignore[reportPrivateUsage]
        parser.error(f"unknown argument '{unknown[0]}'{_closest(unknown[0].split('=')[0], flags)}")
    try:
        config = from_namespace(cls, namespace, env_prefix, environ, siblings)
        if check is not None and namespace.check_settings:
            check(config)
            raise SystemExit(0)
    except ConfigError as error:
        fail(prog, str(error))
    except MeshError as error:
        fail(prog, error.message)
    return config


def add_options(parser: argparse.ArgumentParser, cls: type[Any], env_prefix: str) -> None:
    """Add the fields of `cls` to a parser; nothing is defaulted there, so that the environment can step in."""
    hints = get_type_hints(cls)
    for spec, shown in zip(_specs(cls), settings(cls, env_prefix), strict=True):
        option_ = spec.metadata["option"]
        kwargs: dict[str, Any] = {"default": None, "help": told(shown)}
        scalar, many = _scalar(hints[spec.name])
        if scalar is bool:
            kwargs["action"] = argparse.BooleanOptionalAction
        else:
            kwargs["metavar"] = option_.metavar or spec.name.upper()
            if many:
                kwargs["action"] = "append" if not option_.positional else None
        if option_.positional:
            kwargs.pop("action", None)
            parser.add_argument(spec.name, nargs="*" if many else "?", **kwargs)
        else:
            parser.add_argument("--" + spec.name.replace("_", "-"), dest=spec.name, **kwargs)


def from_namespace(
    cls: type[T],
    namespace: argparse.Namespace,
    env_prefix: str,
    environ: Mapping[str, str],
    siblings: Sequence[type[Any]] = (),
) -> T:
    """Build `cls` from parsed flags, then the environment, then defaults; raises ConfigError."""
    hints = get_type_hints(cls)
    known = {env_prefix + spec.name.upper(): spec for spec in _specs(cls)}
    others = {env_prefix + spec.name.upper() for sibling in siblings for spec in _specs(sibling)}
    for name in environ:
        if name.startswith(env_prefix) and name not in known and name not in others:
            raise ConfigError(f"unknown environment variable {name}{_closest(name, list(known))}")
    values: dict[str, Any] = {}
    for name, spec in known.items():
        given = getattr(namespace, spec.name)
        flag = spec.name if spec.metadata["option"].positional else "--" + spec.name.replace("_", "-")
        if given is not None and given != []:
            values[spec.name] = _convert(flag, hints[spec.name], spec, given)
        elif text := environ.get(name, "").rstrip("\r\n"):  # the end of the file that a secret was read from
            values[spec.name] = _convert(name, hints[spec.name], spec, text)
        elif spec.default is MISSING:
            raise ConfigError(f"{flag} is required")
    return cls(**values)


class Parser(argparse.ArgumentParser):
    """The parser of our commands, whose --help is JSON for programs (MESH_HELP=json)."""

    shown: Sequence[Setting] = ()

    def format_help(self) -> str:
        if os.environ.get("MESH_HELP") != "json":
            return super().format_help()
        listed = [asdict(each) for each in self.shown]
        return json.dumps({"command": self.prog, "about": self.description, "settings": listed}, default=str) + "\n"

    def error(self, message: str) -> NoReturn:
        fail(self.prog, f"{message} (see {self.prog} --help)")


def _specs(cls: type[Any]) -> list[Field[Any]]:
    return [spec for spec in fields(cls) if "option" in spec.metadata]


@dataclass(frozen=True, slots=True)
class Setting:
    """A field as documentation shows it. `flag` is a bare name where it is given by its place."""

    field: str
    flag: str
    variable: str
    values: str
    default: Any
    help: str
    choices: tuple[str, ...] = ()


def told(setting: Setting) -> str:
    """A setting in the help of argparse."""
    untold = any(choice not in setting.help for choice in map(str, setting.choices))
    shown = f" One of {', '.join(map(str, setting.choices))}." if untold else ""
    shown += "" if setting.default is None else f" Default: {setting.default}."
    return f"{setting.help}{shown} [{setting.variable}]".replace("%", "%%")


def settings(cls: type[Any], env_prefix: str) -> list[Setting]:
    """What a command can be told, in the order of its help. The default is None where there is none."""
    hints = get_type_hints(cls)
    return [_setting(spec, hints[spec.name], env_prefix) for spec in _specs(cls)]


def _setting(spec: Field[Any], hint: Any, env_prefix: str) -> Setting:
    option_: _Option = spec.metadata["option"]
    scalar, many = _scalar(hint)
    flag = spec.name if option_.positional else "--" + spec.name.replace("_", "-")
    default = None if spec.default in (MISSING, "", ()) else spec.default
    values = _values(scalar, option_) + ("; may be repeated" if many else "")
    choices = get_args(scalar) if get_origin(scalar) is Literal else ()
    return Setting(spec.name, flag, env_prefix + spec.name.upper(), values, default, option_.help, choices)


def _values(scalar: Any, option_: _Option) -> str:
    if get_origin(scalar) is Literal:
        return ", ".join(get_args(scalar))
    kind = {bool: "yes or no", int: "whole number", float: "number", Path: "path", ByteSize: "size"}.get(scalar, "text")
    return kind if option_.low is None and option_.high is None else f"{kind}, {_limits(option_)}"


def _scalar(hint: Any) -> tuple[Any, bool]:
    """The element type of a hint, and whether the option may be repeated."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        inner = [arg for arg in get_args(hint) if arg is not type(None)]
        return _scalar(inner[0])
    if origin is tuple:
        return get_args(hint)[0], True
    return hint, False


def _convert(name: str, hint: Any, spec: Field[Any], given: Any) -> Any:
    scalar, many = _scalar(hint)
    limits = spec.metadata["option"]
    if many:
        items = _items(given)
        return tuple(_one(name, scalar, limits, item) for item in items)
    return _one(name, scalar, limits, given)


def _items(given: list[Any] | str) -> list[Any]:
    """A repeated flag arrives as a list, an environment variable as one text."""
    return given if isinstance(given, list) else [part.strip() for part in given.split(",") if part.strip()]


def _one(name: str, scalar: Any, limits: _Option, text: Any) -> Any:
    if scalar is bool:
        return _boolean(name, text)
    if get_origin(scalar) is Literal:
        if text not in get_args(scalar):
            raise ConfigError(f"{name} must be one of {', '.join(get_args(scalar))}, not '{text}'")
        return text
    convert: Callable[[Any], Any] = scalar
    try:
        value = convert(text)
    except ValueError:
        kinds: dict[Any, str] = {int: "a whole number", float: "a number", ByteSize: "a size such as 4GiB or 512MiB"}
        kind = kinds.get(scalar, "valid")
        raise ConfigError(f"{name} must be {kind}, not '{text}'") from None
    if isinstance(value, int | float) and not _within(value, limits):
        raise ConfigError(f"{name} must be {_limits(limits)}, not {text}")
    return value


def _boolean(name: str, text: Any) -> bool:
    if isinstance(text, bool):
        return text
    match str(text).lower():
        case "1" | "true" | "yes" | "on":
            return True
        case "0" | "false" | "no" | "off":
            return False
        case _:
            raise ConfigError(f"{name} must be true or false, not '{text}'")


def _within(value: float, limits: _Option) -> bool:
    if value != value:  # a NaN passes every comparison the wrong way
        return False
    return (limits.low is None or value >= limits.low) and (limits.high is None or value <= limits.high)


def _limits(limits: _Option) -> str:
    if limits.high is None:
        return f"at least {limits.low}"
    if limits.low is None:
        return f"at most {limits.high}"
    return f"between {limits.low} and {limits.high}"


def _closest(name: str, known: list[str]) -> str:
    longer = [each for each in known if each.startswith(name)]
    match = longer or difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {match[0]}?" if match else ""


__all__ = ["ByteSize", "ConfigError", "Path", "add_options", "fail", "from_namespace", "option", "parse", "settings"]
