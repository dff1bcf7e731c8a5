"""`mesh arena`, `python -m webui.data`: the commands by name."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from mesh.config import ConfigError, fail, parse
from mesh.ending import run_to_end, told
from webui.data.config import COMMANDS, ENV_PREFIX
from webui.records import StoreUnavailable

_PROG: Final = "mesh arena"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Bad input is one sentence and exit code 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(usage() + "\n")
        return 0 if words else 2
    if words[0] not in COMMANDS:
        match = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"; did you mean {match[0]}?" if match else f" (see {_PROG} --help)"
        fail(_PROG, f"unknown command '{words[0]}'{hint}")
    prog = f"{_PROG} {words[0]}"
    config = parse(COMMANDS[words[0]], prog=prog, env_prefix=ENV_PREFIX, argv=words[1:], siblings=[*COMMANDS.values()])
    try:
        return _command(words[0])(config)
    except (ConfigError, StoreUnavailable) as error:
        fail(prog, str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        fail(prog, told(error))


def _command(name: str) -> Callable[[Any], int]:
    # Help needs none of it, and it takes a second to import.
    from webui.data import commands

    run: dict[str, Callable[[Any], int]] = {
        "export": commands.export,
        "import": commands.import_,
        "stats": commands.stats,
        "report": commands.report,
        "audit": commands.audit,
        "label": commands.label,
        "forget": commands.forget,
    }
    return run[name]


def usage() -> str:
    """The commands, one a line."""
    lines = [f"usage: {_PROG} COMMAND ...", "", "commands:"]
    lines += [f"  {name:<8} {(config.__doc__ or '').strip()}" for name, config in COMMANDS.items()]
    return "\n".join([*lines, "", f"{_PROG} COMMAND --help tells more."])


if __name__ == "__main__":
    raise SystemExit(run_to_end(_PROG, main))
