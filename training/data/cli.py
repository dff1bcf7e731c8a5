"""The tools by name, and chains of them."""

from __future__ import annotations

import difflib
import signal
import sys
from collections.abc import Generator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import fields, make_dataclass
from typing import Any, Final, NoReturn

from mesh.config import ConfigError, fail, parse
from mesh.ending import told
from training.data.command import Files, run
from training.data.pipeline import Pipeline, steps
from training.data.segment import Named
from training.data.tools import TOOLS
from training.reading import BadFile

_PROG: Final = "mesh data"
ENV_PREFIX: Final = "MESH_DATA_"
_CHAIN: Final = "run"


def _with_files(kind: type[Any]) -> type[Any]:
    """The options of a tool and of files, as one."""
    both = make_dataclass(kind.__name__, (), bases=(Files, kind), frozen=True, kw_only=True)
    both.__doc__ = kind.__doc__
    return both


COMMANDS: Final[dict[str, type[Any]]] = {
    **{name: _with_files(kind) for name, kind in TOOLS.items()},
    _CHAIN: _with_files(Pipeline),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one tool, or a chain; returns the exit code. Bad input is one sentence and exit code 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(usage() + "\n")
        return 0 if words else 2
    name = words[0]
    if name not in COMMANDS:
        match = difflib.get_close_matches(name, COMMANDS, n=1)
        fail(_PROG, f"unknown tool '{name}'" + (f"; did you mean {match[0]}?" if match else f" (see {_PROG} --help)"))
    try:
        with _ends_in_order():
            return _chain(words[1:]) if name == _CHAIN else _tool(name, words[1:])
    except (ConfigError, BadFile) as error:
        fail(f"{_PROG} {name}", str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        fail(f"{_PROG} {name}", told(error))
    except BrokenProcessPool:
        fail(f"{_PROG} {name}", "a process was killed, as systems do that run out of memory; try fewer --processes")
    except KeyboardInterrupt:
        return 130


@contextmanager
def _ends_in_order() -> Generator[None]:
    """Signals that end a process let it take away first what is half done."""
    ending = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in ending:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in ending:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def _tool(name: str, argv: Sequence[str]) -> int:
    kind, config = TOOLS[name], _parsed(name, argv)
    tool = kind(**{spec.name: getattr(config, spec.name) for spec in fields(kind)})
    return run([Named(name, tool)], config, output_required=name != "stats")


def _chain(argv: Sequence[str]) -> int:
    config = _parsed(_CHAIN, argv)
    return run(steps(config.pipeline), config)


def _parsed(name: str, argv: Sequence[str]) -> Any:
    kind = COMMANDS[name]
    return parse(kind, prog=f"{_PROG} {name}", env_prefix=ENV_PREFIX, argv=argv, siblings=[*COMMANDS.values()])


def usage() -> str:
    """The tools, one a line."""
    lines = [f"usage: {_PROG} TOOL FILE... --output FILE", "", "tools:"]
    lines += [f"  {name:<14} {(kind.__doc__ or '').strip()}" for name, kind in COMMANDS.items()]
    return "\n".join([*lines, "", f"{_PROG} TOOL --help tells more."])
