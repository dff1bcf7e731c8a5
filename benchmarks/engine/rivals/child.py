"""The child's half of the conversation. Standard library only: it runs in the rival's environment, as a script.

The first line out is {"ready": …}. Then each line in asks for one batch, {"prompts": [[id, …], …], "new_tokens": n},
and the line out holds {"rows": [[id, …], …], "times": [[seconds, …], …], "wall": seconds}, counted from the submit; or
{"error": text}, after which it ends. With "late": {"prompt": [id, …], "after": k} another prompt enters once every row
has k tokens, and "late" of the answer says when that was and when it had its first token.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

Batch = Callable[[list[list[int]], int, dict[str, Any] | None], dict[str, Any]]
B = TypeVar("B", bound=Batch)


def serve(start: Callable[[], B]) -> B | None:
    """Load with `start`, then answer batches until the parent closes the pipe. Returns what `start` did, if it did."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print belongs to nobody's protocol
    run: B | None = None
    try:
        run = start()
        _say(out, {"ready": True})
        for line in sys.stdin:
            wanted = json.loads(line)
            _say(out, run(wanted["prompts"], wanted["new_tokens"], wanted.get("late")))
    except Exception as error:
        traceback.print_exc()
        _say(out, {"error": f"{type(error).__name__}: {error}"})
    return run


def _say(out: Any, what: dict[str, Any]) -> None:
    out.write(json.dumps(what) + "\n")
    out.flush()
