"""The store as the rest of the gateway holds it: where it is, and the database once somebody needs it."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.errors import ErrorKind, MeshError
from mesh.log import kv

if TYPE_CHECKING:
    from gateway.store.background import Background
    from gateway.store.batches import Batches
    from gateway.store.chats import Chats
    from gateway.store.conversations import Conversations
    from gateway.store.database import Database
    from gateway.store.files import Files
    from gateway.store.responses import Responses

log = logging.getLogger(__name__)

# Between two sweeps, in seconds, drawn so that several gateways do not all sweep at once.
_SWEEP_SECONDS = (240.0, 360.0)
_DAY = 86_400.0
NONE = "none"


class Store:
    """`await open()` for the database. `run` until cancelled, then `close`.

    `where`: a file of SQLite, a URL of PostgreSQL, `none` for no store, or empty for a file of the user's. `retention`:
    days that records are kept, 0 for ever.
    """

    def __init__(self, where: str = "", *, retention: float = 0) -> None:
        self._where = where
        self._retention = retention
        self._database: Database | None = None
        self._opening = asyncio.Lock()
        self._opened = asyncio.Event()

    @property
    def keeps(self) -> bool:
        """Whether this gateway keeps anything."""
        return self._where != NONE

    @property
    def opened(self) -> bool:
        """Whether the database is open."""
        return self._opened.is_set()

    @property
    def retention(self) -> float:
        """Seconds that records are kept, 0 for ever."""
        return self._retention * _DAY

    @property
    def exists(self) -> bool:
        """Whether there may be records from before."""
        return self.keeps and ("://" in self._where or self._path.exists())

    async def open(self) -> Database:
        """The database, its tables up to date. Raises MeshError (store_unavailable); the next call tries again."""
        if self._database is not None:
            return self._database
        if not self.keeps:
            raise MeshError(ErrorKind.STORE_UNAVAILABLE, "this gateway keeps nothing: it runs with --store none")
        async with self._opening:
            if self._database is None:
                # In another thread: the import takes a part of a second, in which streams go on.
                module = await asyncio.to_thread(import_module, "gateway.store.database")
                self._database = await module.connect(self._where if "://" in self._where else self._path)
                self._opened.set()
            assert self._database is not None
            return self._database

    async def responses(self) -> Responses:
        """Responses. Raises MeshError as `open` does."""
        database = await self.open()
        from gateway.store.responses import Responses  # not before: it imports SQLAlchemy

        return Responses(database)

    async def background(self) -> Background:
        """Responses in the background. Raises MeshError as `open` does."""
        database = await self.open()
        from gateway.store.background import Background  # as above

        return Background(database)

    async def conversations(self) -> Conversations:
        """Conversations. Raises MeshError as `open` does."""
        database = await self.open()
        from gateway.store.conversations import Conversations  # as above

        return Conversations(database)

    async def chats(self) -> Chats:
        """Chat completions. Raises MeshError as `open` does."""
        database = await self.open()
        from gateway.store.chats import Chats  # as above

        return Chats(database)

    async def files(self) -> Files:
        """Files. Raises MeshError as `open` does."""
        database = await self.open()
        from gateway.store.files import Files

        return Files(database)

    async def batches(self) -> Batches:
        """Batches. Raises MeshError as `open` does."""
        database = await self.open()
        from gateway.store.batches import Batches

        return Batches(database)

    async def run(self) -> None:
        """Remove what has been kept for long enough, from time to time, once there is a database."""
        await self._opened.wait()
        while True:
            await asyncio.sleep(random.uniform(*_SWEEP_SECONDS))
            await self.sweep()

    async def sweep(self) -> None:
        """Remove what has been kept for long enough, now."""
        if not self._retention:
            return
        try:
            gone = await (await self.open()).sweep(self._retention * _DAY)
        except MeshError as error:
            log.warning("old records cannot be removed", extra=kv(why=error.message))
        else:
            if gone:
                log.info("old records removed", extra=kv(records=gone))

    async def close(self) -> None:
        """Let go of the database."""
        database, self._database = self._database, None
        if database is not None:
            await database.close()

    @property
    def _path(self) -> Path:
        if self._where:
            return Path(self._where).expanduser()
        home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        return Path(home).expanduser() / "inference-mesh" / "gateway.db"
