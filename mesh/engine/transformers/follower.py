"""Ranks beside rank 0: each loads its share of the model and does what rank 0 says, until that ends.

    python -m mesh.engine.transformers.follower RANK WORLD FOLDER

Rank 0 starts it so; torchrun starts it as a worker (mesh/worker/__main__.py).
"""

from __future__ import annotations

import logging
import os
import queue
import shutil
import signal
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import NoReturn

import torch

from mesh import log
from mesh.engine.transformers.build import build_follower
from mesh.engine.transformers.parallel.group import join_group
from mesh.engine.transformers.parallel.place import Place, find_folder
from mesh.engine.transformers.parallel.protocol import Begin, Message, Mirror, Stop, decode
from mesh.engine.transformers.parallel.ranks import SOCKET
from mesh.errors import MeshError

logger = logging.getLogger(__name__)

# From the failure of a step until what caused it elsewhere is known here.
_NEWS_SECONDS = 1.0


def follow(place: Place, folder: Path | None = None) -> NoReturn:
    """Be a rank until rank 0 ends; does not return. Without `folder`, torchrun knows where to meet rank 0."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # without a traceback
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    try:
        folder = folder or find_folder()
        connection = _connect(folder, place)
        # Whoever stops all processes at once, such as Ctrl-C, stops rank 0 as well, which drains and then stops us.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        # On a thread of its own, because this one may be in the middle of a step that rank 0 will never end.
        reader = threading.Thread(target=_read, args=(connection, inbox, folder), name="mesh-rank", daemon=True)
        reader.start()
        try:
            _obey(place, folder, inbox)
        except Exception:
            reader.join(_NEWS_SECONDS)  # if that is because rank 0 has ended, the reader ends this process
            raise
    except MeshError as error:
        logger.critical("%s", error.message)
    except Exception:
        logger.critical("this rank has broken down", exc_info=True)
    _end(1)


def _connect(folder: Path, place: Place) -> Connection:
    try:
        connection = Client(str(folder / SOCKET), "AF_UNIX")
        connection.send_bytes(f"{place.rank} {os.getpid()}".encode())
    except OSError:
        _end_after_rank_0(folder)
    return connection


def _obey(place: Place, folder: Path, inbox: queue.SimpleQueue[Message]) -> None:
    first = inbox.get()
    assert isinstance(first, Begin), f"{type(first).__name__} before anything else"
    join_group(folder, place.rank, place.world, torch.device(first.device))
    with torch.inference_mode():
        mirror = Mirror(build_follower(first.options, first.device))
        while True:
            mirror.obey(inbox.get())


def _read(connection: Connection, inbox: queue.SimpleQueue[Message], folder: Path) -> None:
    """Take messages in; the end of rank 0 is the end of this process, whatever it does meanwhile."""
    try:
        while not isinstance(message := decode(connection.recv_bytes()), Stop):
            inbox.put(message)
    except (EOFError, OSError):
        _end_after_rank_0(folder)
    _end(0)


def _end_after_rank_0(folder: Path) -> NoReturn:
    logger.error("rank 0 has ended")
    shutil.rmtree(folder, ignore_errors=True)  # it had no time to
    _end(1)


def _end(code: int) -> NoReturn:
    logging.shutdown()
    os._exit(code)


def main(argv: Sequence[str]) -> None:
    """Become a rank."""
    rank, world, folder = argv
    log.setup("worker", rank=int(rank))
    follow(Place(int(rank), int(world)), Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
