"""The worker's flags, grouped by what they set. WorkerConfig inherits them all, so names stay flat.

To add a flag, add a field to the class where it belongs; for a new group, or flags of other engines, a new class in a
file of its own, and name it in WorkerConfig.
"""

from __future__ import annotations

import inspect
from typing import ClassVar


class Flags:
    """A group of flags, which only the engines named in `engines` take; None: all of them.

    A group that checks its flags does so in `__post_init__`, raises ConfigError, and calls that of `super()`.
    """

    engines: ClassVar[frozenset[str] | None] = None

    def __post_init__(self) -> None:
        """The end of the chain of checks."""


def engines_of(config: type[Flags], name: str) -> frozenset[str] | None:
    """The engines that take the flag `name` of a configuration: those of the group that defines it; None: all."""
    groups = (cls for cls in config.__mro__ if issubclass(cls, Flags))
    return next(group.engines for group in groups if name in inspect.get_annotations(group))
