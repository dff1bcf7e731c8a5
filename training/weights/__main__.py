"""`mesh weights`, `python -m training.weights`: the commands by name."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from mesh.config import ConfigError, fail, parse
from mesh.ending import run_to_end, told
from training.weights.config import (
    COMMANDS,
    ENV_PREFIX,
    ConvertConfig,
    DeltaApplyConfig,
    DeltaMakeConfig,
    MergeConfig,
    PushConfig,
    ShardConfig,
)

_PROG: Final = "mesh weights"


def _merge(config: MergeConfig) -> str:
    from training.weights.merge import merge

    return merge(config)


def _delta_make(config: DeltaMakeConfig) -> str:
    from training.weights import delta
    from training.weights.folders import find

    return delta.make(
        find(config.base), find(config.target), config.output, _dtype(config.dtype), config.max_shard_size
    )


def _delta_apply(config: DeltaApplyConfig) -> str:
    from training.weights import delta
    from training.weights.folders import find

    return delta.apply(
        find(config.base), find(config.delta), config.output, _dtype(config.dtype), config.max_shard_size
    )


def _convert(config: ConvertConfig) -> str:
    from training.weights.convert import rewrite
    from training.weights.folders import find

    return rewrite(find(config.model), config.output, _dtype(config.dtype), config.max_shard_size)


def _shard(config: ShardConfig) -> str:
    from training.weights.convert import rewrite
    from training.weights.folders import find

    return rewrite(find(config.model), config.output, None, config.max_shard_size)


def _push(config: PushConfig) -> str:
    from training.weights.push import push

    return "\n".join(push(config))


# The modules above are imported when they are needed: torch takes seconds.
_RUN: Final[Mapping[str, Callable[[Any], str]]] = {
    "merge": _merge,
    "delta make": _delta_make,
    "delta apply": _delta_apply,
    "convert": _convert,
    "shard": _shard,
    "push": _push,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Bad input is one sentence and exit code 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    length = 2 if words[0] == "delta" else 1
    name, rest = " ".join(words[:length]), words[length:]
    if name not in _RUN:
        match = difflib.get_close_matches(name, _RUN, n=1)
        fail(
            _PROG, f"unknown command '{name}'" + (f"; did you mean {match[0]}?" if match else f" (see {_PROG} --help)")
        )
    prog = f"{_PROG} {name}"
    config = parse(COMMANDS[name], prog=prog, env_prefix=ENV_PREFIX, argv=rest, siblings=[*COMMANDS.values()])
    try:
        print(_RUN[name](config))
    except ConfigError as error:
        fail(prog, str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        fail(prog, told(error))
    return 0


def usage() -> str:
    """The commands, one a line."""
    lines = [f"usage: {_PROG} COMMAND ...", "", "commands:"]
    lines += [f"  {name:<12} {(settings.__doc__ or '').strip()}" for name, settings in COMMANDS.items()]
    return "\n".join([*lines, "", f"{_PROG} COMMAND --help tells more."])


def _dtype(name: str | None) -> Any:
    from training.weights.checkpoint import DTYPES

    return None if name is None else DTYPES[name]


if __name__ == "__main__":
    raise SystemExit(run_to_end(_PROG, main))
