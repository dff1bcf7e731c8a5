"""One request that has one answer, over as many workers as it takes: the counterpart of `generation.py` for embeddings.

Nothing of an attempt is kept: a worker that is lost, drains or refuses is left, and another one is asked for the whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gateway.routing.claim import Claim
from gateway.routing.dispatch import Dispatch
from gateway.routing.placement import Placement
from gateway.routing.prefix import Prompt
from gateway.routing.session import Session
from gateway.routing.trail import Attempt, Trail
from mesh.errors import ErrorKind, MeshError
from mesh.v1 import inference_pb2 as pb

_NEEDS = frozenset({pb.CAPABILITY_EMBED})


class EmbedCall:
    """`await run()` once. What else is public is what an exchange wants to know."""

    resumes = 0
    completion_tokens = 0

    def __init__(self, request: pb.EmbedRequest, dispatch: Dispatch, claim: Claim | None = None) -> None:
        self.attempts = 0
        # With the prompt's tokens, once they are known.
        self.started: pb.Started | None = None
        self._request = request
        self._claim = claim or Claim()
        self._dispatch = dispatch
        self._placement = Placement(Prompt(request), dispatch, _NEEDS, self._live, self._claim, roomless=True)
        self._task: asyncio.Task[pb.EmbedResponse] | None = None
        self._error: MeshError | None = None
        self._failures = 0
        self._closed = False
        self._trail = Trail()

    @property
    def trail(self) -> list[Attempt]:
        """Its attempts so far; they produce no tokens."""
        return self._trail.attempts

    @property
    def model(self) -> str:
        """The model asked for."""
        return self._request.model

    async def run(self) -> pb.EmbedResponse:
        """The answer. Raises MeshError when all is lost."""
        task = self._task = asyncio.create_task(self._until_answered())
        try:
            response = await task
        except asyncio.CancelledError:
            if self._error is None:
                raise
            raise self._error from None
        except MeshError as error:
            raise _as_clients_say(error) from None
        finally:
            task.cancel()
        self.started = pb.Started(prompt_tokens=response.prompt_tokens)
        return response

    def abort(self, error: MeshError) -> None:
        """Let `run` raise this error now."""
        if self._task is not None and not self._task.done():
            self._error = error
            self._task.cancel()

    def close(self) -> None:
        """End it, whatever its state: the worker is told."""
        if self._task is not None:
            self._task.cancel()
        if not self._closed:
            self._closed = True
            self._placement.close()

    # Attempts

    async def _until_answered(self) -> pb.EmbedResponse:
        metrics = self._dispatch.metrics
        while True:
            session = await self._find()
            self.attempts += 1
            self._trail.begin(session, 0)
            try:
                response = await session.embed(self._request, timeout=self._dispatch.embed_timeout)
            except MeshError as error:
                metrics.attempts.labels(self.model, error.code).inc()
                self._trail.end(error.code, 0)
                self._leave(session, error)
            else:
                metrics.attempts.labels(self.model, "finished").inc()
                self._trail.end("finished", 0)
                self._placement.began(session, response.prompt_tokens)
                return response

    async def _find(self) -> Session:
        found: list[Session] = []
        await self._placement.find(found.append)
        return found[0]

    def _leave(self, session: Session, error: MeshError) -> None:
        """Note why; raises the error if another worker would say the same, or if there were too many."""
        lost = error.kind is ErrorKind.WORKER_LOST
        self._placement.left(session, error, refused=not lost)
        if lost:
            self._placement.avoid(session)
        if error.kind is ErrorKind.DRAINING:
            session.stop_routing()
        if error.kind is ErrorKind.OVERLOADED:
            return  # bounded by the time without a worker that has room instead
        self._failures += 1
        if not error.kind.value.retry_elsewhere or self._failures > self._dispatch.max_attempts:
            raise error

    def _live(self) -> Sequence[Session]:
        return self._dispatch.directory.live(self.model, needs=_NEEDS)


def _as_clients_say(error: MeshError) -> MeshError:
    """The wire's field `inputs` is `input` in the API."""
    if error.param != "inputs":
        return error
    message = error.message.replace("'inputs", "'input", 1)
    return MeshError(error.kind, message, param="input", retry_after=error.retry_after)
