"""A YAML file of which every value knows its line and its path.

Scalars are taken as they are written, so `on`, `1e3` and `0x10` are texts until a setting says what it wants.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import yaml

from mesh.config import ConfigError

_LARGEST = 1024 * 1024


class Value:
    """A value of the file, with where it stands, such as `mesh.yaml:7: models[0].replicas`."""

    def __init__(self, node: yaml.Node, file: str, path: str, line: int | None = None) -> None:
        self._node = node
        self._file = file
        self.path = path
        self.line = node.start_mark.line + 1 if line is None else line

    def error(self, message: str) -> ConfigError:
        """An error about this value."""
        where = f" {self.path}" if self.path else ""
        return ConfigError(f"{self._file}:{self.line}:{where} {message}")

    @property
    def is_boolean(self) -> bool:
        """Whether YAML takes it for true or false."""
        return isinstance(self._node, yaml.ScalarNode) and self._node.tag == "tag:yaml.org,2002:bool"

    @property
    def is_list(self) -> bool:
        """Whether it is a list."""
        return isinstance(self._node, yaml.SequenceNode)

    @property
    def is_section(self) -> bool:
        """Whether it is a mapping."""
        return isinstance(self._node, yaml.MappingNode)

    def text(self) -> str:
        """Its text."""
        if not isinstance(self._node, yaml.ScalarNode):
            raise self.error("must be one value, not a list or a mapping")
        if self._node.tag == "tag:yaml.org,2002:null":
            raise self.error("has no value")
        return str(self._node.value)

    def whole(self, low: int, high: int) -> int:
        """A whole number between the limits, inclusive."""
        text = self.text()
        if not text.lstrip("-").isdigit() or not low <= int(text) <= high:
            raise self.error(f"must be a whole number between {low} and {high}, not {text}")
        return int(text)

    def items(self) -> list[Value]:
        """The values of a list."""
        if not isinstance(self._node, yaml.SequenceNode):
            raise self.error("must be a list")
        return [Value(node, self._file, f"{self.path}[{index}]") for index, node in enumerate(_inside(self._node))]

    def texts(self) -> list[str]:
        """The texts of a list, or of the one value that is given without one."""
        return [item.text() for item in self.items()] if self.is_list else [self.text()]

    def section(self) -> dict[str, Value]:
        """The values of a mapping, by key."""
        if not isinstance(self._node, yaml.MappingNode):
            raise self.error("must be a mapping of keys to values")
        found: dict[str, Value] = {}
        for key, node in _inside(self._node):
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
            path = f"{self.path}.{name}" if self.path else name
            value = Value(node, self._file, path, key.start_mark.line + 1)
            if not isinstance(key, yaml.ScalarNode):
                raise value.error("must be a text")
            if name in found:
                raise value.error(f"is given twice, first in line {found[name].line}")
            found[name] = value
        return found


def _inside(node: yaml.CollectionNode) -> list[Any]:
    return cast("list[Any]", node.value)  # pyright: ignore[reportUnknownMemberType]


def _compose(text: str) -> yaml.Node | None:
    return cast("yaml.Node | None", yaml.compose(text, Loader=yaml.SafeLoader))  # pyright: ignore[reportUnknownMemberType]


def read_document(path: Path) -> Value:
    """The value of the whole file; raises ConfigError."""
    try:
        if path.stat().st_size > _LARGEST:
            raise ConfigError(f"{path} is larger than {_LARGEST} bytes")
        node = _compose(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 at byte {error.start}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    if node is None:
        raise ConfigError(f"{path} is empty")
    return Value(node, str(path), "")


def nearest(key: str, known: Iterable[str]) -> str:
    """`; did you mean KEY?` for the key that is most alike, or nothing."""
    match = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {match[0]}?" if match else ""
