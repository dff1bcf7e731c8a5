"""A terminal of its own with a command in it, driven by tmux: keys go in, what a person would see comes out."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.harness import ROOT, wait_until

COLUMNS, LINES = 100, 30
_SESSION = "screen"


class Screen:
    """`mesh ARGV` in a terminal of 100 by 30. Its tmux server is nobody else's, and ends with it."""

    def __init__(self, folder: Path, *argv: str, env: Mapping[str, str] | None = None) -> None:
        self._socket = str(folder / "tmux")
        self._ended = folder / "code"
        self._ended.unlink(missing_ok=True)
        command = shlex.join([sys.executable, "-m", "mesh.cli", *argv])
        settings = {"XDG_STATE_HOME": str(folder / "state"), **(env or {})}
        assigned = [f"-e{name}={value}" for name, value in settings.items()]
        size = ("-x", str(COLUMNS), "-y", str(LINES))
        # What it says when it ends stays to be seen.
        script = f"{command}; echo $? > {shlex.quote(str(self._ended))}; exec sleep 60"
        self._tmux("-f", os.devnull, "new-session", "-d", "-s", _SESSION, *size, *assigned, "-c", str(ROOT), script)
        # All that is written goes there as well: looking at the size of a file costs less than asking tmux.
        self._written = folder / "written"
        self._written.write_bytes(b"")
        self._tmux("pipe-pane", "-t", _SESSION, f"cat >> {shlex.quote(str(self._written))}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tmux("kill-server")

    def type(self, text: str) -> None:
        """Type a text as it is."""
        self._tmux("send-keys", "-t", _SESSION, "-l", "--", text)

    def press(self, *keys: str) -> None:
        """Press keys by tmux's names, such as Enter, C-c, M-Enter."""
        self._tmux("send-keys", "-t", _SESSION, *keys)

    def enter(self, line: str) -> None:
        """Type a line and send it."""
        self.type(line)
        self.press("Enter")

    def seen(self, *, colours: bool = False) -> str:
        """All that was written, what has scrolled away included."""
        flags = ["-e"] if colours else []
        return self._tmux("capture-pane", "-p", "-S", "-", "-J", *flags, "-t", _SESSION)

    @property
    def has_cursor(self) -> bool:
        """Whether the cursor is shown."""
        return self._tmux("display-message", "-p", "-t", _SESSION, "#{cursor_flag}").strip() == "1"

    def wait_for(self, *texts: str, within: float = 20.0) -> str:
        """Wait until all texts are there; returns all that is."""

        looked_at = -1
        seen = ""

        def check() -> str:
            nonlocal looked_at, seen
            size = self._written.stat().st_size
            if size != looked_at:
                looked_at, seen = size, self.seen()
            missing = [text for text in texts if text not in seen]
            assert not missing, f"{missing} not in\n{seen}"
            return seen

        return wait_until(check, within)

    def wait_exit(self, within: float = 10.0) -> int:
        """The exit code of the command."""
        return int(wait_until(lambda: self._ended.exists() and self._ended.read_text().strip(), within))

    def _tmux(self, *args: str) -> str:
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("MESH_", "TMUX"))}
        done = subprocess.run(
            ["tmux", "-S", self._socket, *args], capture_output=True, text=True, timeout=10, env=environ, check=True
        )
        return done.stdout
