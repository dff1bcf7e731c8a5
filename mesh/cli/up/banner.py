"""What a person needs to know once everything runs."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path

from mesh.cli.chat.config import TalkFlags
from mesh.cli.up.plan import Kind, Plan
from mesh.version import version

_WIDTH = 12


def banner(plan: Plan, stop: str) -> str:
    """The addresses, the models, a line to try, and how it is stopped."""
    rows = _addresses(plan, "gateway", "OpenAI API", "/v1")
    if plan.models:
        rows.append(("models", ", ".join(plan.models)))
    if plan.aliases:
        rows.append(("also called", ", ".join(f"{name} → {model}" for name, model in plan.aliases.items())))
    if plan.of("gateway") and plan.models:
        url = plan.of("gateway")[0].address
        rows += [
            ("try", _curl(url, plan.models[0])),
            ("talk", typed("chat" if url == TalkFlags.url else f"chat --url {url}")),
        ]
    rows += _addresses(plan, "webui", "arena", "/direct" if len(plan.models) == 1 else "/")
    rows.append(("stop", stop))
    lines = [f"  {name:<{_WIDTH}}{value}" for name, value in rows]
    return "\n".join(["", f"  mesh {version()} is ready", "", *lines, ""])


def _addresses(plan: Plan, kind: Kind, title: str, path: str) -> list[tuple[str, str]]:
    return [(title if number == 0 else "", each.address + path) for number, each in enumerate(plan.of(kind))]


def typed(words: str) -> str:
    """A command of `mesh` as it can be typed here: a clone's `mesh` is not on the path of every shell."""
    return f"{'mesh' if shutil.which('mesh') else shlex.join(_called_by())} {words}"


def _called_by() -> list[str]:
    """What this process was called by, such as `.venv/bin/mesh`."""
    return [sys.argv[0]] if Path(sys.argv[0]).name == "mesh" else [sys.executable, "-m", "mesh.cli"]


def _curl(url: str, model: str) -> str:
    message = {"role": "user", "content": "Hello! What can you do?"}
    body = json.dumps({"model": model, "messages": [message], "stream": True})
    return f"curl -N {url}/v1/chat/completions -H 'content-type: application/json' -d {shlex.quote(body)}"
