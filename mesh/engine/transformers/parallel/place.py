"""Which of several processes this one is, where torchrun has started them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from mesh.errors import invalid

_KEY = "mesh/ranks"
# Rank 0 may have to download the model's configuration first.
_WAIT = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Place:
    """Process `rank` of `world`."""

    rank: int
    world: int


def torchrun_place() -> Place | None:
    """The place that torchrun gave this process; None without torchrun, or if it is the only one.

    Raises invalid_request for processes on several machines: they meet through a folder.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    place = Place(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    if place.world != here:
        text = f"torchrun started {place.world} processes, {here} of them here: all must be on one machine"
        raise invalid("tensor_parallel_size", text)
    return place if place.world > 1 else None


def publish_folder(folder: Path) -> None:
    """Tell the processes that torchrun has started where they meet rank 0, which is this one."""
    _torchrun_store().set(_KEY, str(folder))


def find_folder() -> Path:
    """Where rank 0 is to be met; waits for it."""
    return Path(_torchrun_store().get(_KEY).decode())


def _torchrun_store() -> Any:
    # Imported late: a worker asks for its place before it knows whether it needs torch.
    import torch.distributed as dist

    store: Any = next(cast("Any", dist).rendezvous("env://"))[0]
    store.set_timeout(_WAIT)
    return store
