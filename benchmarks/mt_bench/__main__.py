"""`mesh mtbench`, `python -m benchmarks.mt_bench`: the commands by name."""

from __future__ import annotations

import asyncio
import difflib
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from benchmarks.mt_bench import config
from benchmarks.mt_bench.jsonl import BadFile
from mesh.config import fail, parse
from mesh.ending import run_to_end, told

_PROG: Final = "mesh mtbench"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Bad input is one sentence and exit code 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    name = words[0]
    if name not in config.COMMANDS:
        match = difflib.get_close_matches(name, config.COMMANDS, n=1)
        hint = f"; did you mean {match[0]}?" if match else f" (see {_PROG} --help)"
        fail(_PROG, f"unknown command '{name}'{hint}")
    prog = f"{_PROG} {name}"
    settings = parse(
        config.COMMANDS[name],
        prog=prog,
        env_prefix=config.ENV_PREFIX,
        argv=words[1:],
        siblings=[*config.COMMANDS.values()],
    )
    try:
        return _command(name)(settings)
    except BadFile as error:
        fail(prog, str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        fail(prog, told(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print(f"{prog}: stopped; the same command goes on from here", file=sys.stderr)
        return 130


def _command(name: str) -> Callable[[Any], int]:
    # Help needs none of it, and it takes a second to import.
    from benchmarks.mt_bench import commands

    run: dict[str, Callable[[Any], int]] = {
        "answer": commands.answer,
        "judge": commands.judge,
        "show": commands.show,
        "report": commands.report,
        "browse": commands.browse,
        "agreement": commands.agreement,
        "validate": commands.validate,
        "download": commands.download,
    }
    return run[name]


def usage() -> str:
    """The commands, one a line."""
    lines = [f"usage: {_PROG} COMMAND ...", "", "commands:"]
    for name, settings in config.COMMANDS.items():
        first, _, _ = (settings.__doc__ or "").partition(". ")
        lines.append(f"  {name:<10}{first.rstrip('.')}.")
    return "\n".join([*lines, "", f"{_PROG} COMMAND --help tells more; docs/mtbench.md how they belong together."])


if __name__ == "__main__":
    raise SystemExit(run_to_end(_PROG, main))
