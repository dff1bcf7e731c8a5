"""One request that has one answer, over as many workers as it takes: the counterpart of `generation.py` for embeddings
and for the tokenizer.

Nothing of an attempt is kept: a worker that is lost, drains or refuses is left, and another one is asked for the whole.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence, Sized
from typing import Generic, TypeVar

from gateway.routing.claim import Claim
from gateway.routing.directory import unknown_model
from gateway.routing.dispatch import Dispatch
from gateway.routing.placement import Placement
from gateway.routing.prefix import Prompt, Request
from gateway.routing.quarantine import Suspicion
from gateway.routing.session import Session
from gateway.routing.suspects import Call
from gateway.routing.trail import Attempt
from mesh.errors import ErrorKind, MeshError
from mesh.log import kv
from mesh.v1 import inference_pb2 as pb
from mesh.v1.inference_pb2_grpc import InferenceServiceStub

log = logging.getLogger(__name__)

Response = TypeVar("Response")
_EMBEDS = frozenset({pb.CAPABILITY_EMBED})
_CLASSIFIES = frozenset({pb.CAPABILITY_CLASSIFY})


class UnaryCall(Generic[Response]):
    """`await run()` once. What else is public is what an exchange wants to know.

    `ask` makes the call on a worker, which must have what `needs` says. `size` is its load on one, in inputs to embed;
    `counted` tells from the answer the tokens that were computed, if that was any work, `whole` whether it has a result
    for each input, and `renamed` the wire's field that the API calls otherwise.
    """

    resumes = 0
    completion_tokens = 0
    hedge = None

    def __init__(
        self,
        request: Request,
        ask: Callable[[InferenceServiceStub], Awaitable[Response]],
        dispatch: Dispatch,
        claim: Claim,
        *,
        needs: frozenset[pb.Capability] = frozenset(),
        size: int = 0,
        counted: Callable[[Response], int] | None = None,
        whole: Callable[[Response], bool] = lambda _: True,
        renamed: tuple[str, str] = ("", ""),
    ) -> None:
        self.attempts = 0
        # In order; they produce no tokens.
        self.trail: list[Attempt] = []
        # With the prompt's tokens, once they are known.
        self.started: pb.Started | None = None
        self._request = request
        self._ask = ask
        self._dispatch = dispatch
        self._needs = needs
        self._size = size
        self._counted = counted
        self._whole = whole
        self._renamed = renamed
        self._suspicion = Suspicion(request, dispatch.quarantine, dispatch.directory)
        self._placement = Placement(Prompt(request), dispatch, needs, self._live, claim, roomless=True)
        self._task: asyncio.Task[Response] | None = None
        self._error: MeshError | None = None
        self._failures = 0
        self._closed = False

    @property
    def model(self) -> str:
        """The model asked for."""
        return self._request.model

    async def run(self) -> Response:
        """The answer. Raises MeshError when all is lost."""
        task = self._task = asyncio.create_task(self._until_answered())
        try:
            response = await task
        except asyncio.CancelledError:
            if self._error is None:
                raise
            raise self._error from None
        except MeshError as error:
            raise error.renamed(*self._renamed) from None
        finally:
            task.cancel()
        if self._counted is not None:
            self.started = pb.Started(prompt_tokens=self._counted(response))
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
            self._suspicion.clear()
            self._placement.close()

    # Attempts

    async def _until_answered(self) -> Response:
        self._dispatch.quarantine.check(self._request)
        while True:
            session = await self._find()
            self.attempts += 1
            attempt = Attempt.at(session)
            self.trail.append(attempt)
            call = Call(self._size, self._suspicion.count)
            try:
                response = await session.call(call, self._ask)
                self._check(session, response)
            except MeshError as error:
                self._note(attempt, error.code)
                await self._leave(session, call, error)
            else:
                self._note(attempt, "finished")
                self._suspicion.clear()
                self._placement.began(session, self._counted(response) if self._counted is not None else 0)
                return response

    def _check(self, session: Session, response: Response) -> None:
        """Raise protocol_error for an answer that lacks something: it would be told of the wrong inputs."""
        if not self._whole(response):
            text = f"worker '{session.worker_id}' did not answer each of {self._size} inputs"
            log.error("a worker broke the protocol", extra=kv(worker=session.worker_id, why=text))
            raise MeshError(ErrorKind.PROTOCOL_ERROR, text)

    def _note(self, attempt: Attempt, outcome: str) -> None:
        attempt.end(outcome)
        self._dispatch.metrics.attempts.labels(self.model, outcome).inc()

    async def _find(self) -> Session:
        await self._suspicion.judge()
        found: list[Session] = []
        await self._placement.find(found.append)
        return found[0]

    async def _leave(self, session: Session, call: Call, error: MeshError) -> None:
        """Note why; raises the error if another worker would say the same, or if there were too many."""
        lost, unknown = error.kind is ErrorKind.WORKER_LOST, error.kind is ErrorKind.MODEL_NOT_FOUND
        if unknown:
            error = unknown_model(self.model)  # a worker's own words name all that it serves
        self._placement.left(session, error, refused=not lost)
        if lost or error.kind is ErrorKind.PROTOCOL_ERROR:
            self._placement.avoid(session)
        if error.kind is ErrorKind.DRAINING:
            session.stop_routing()
        if error.kind is ErrorKind.OVERLOADED:
            return  # bounded by the time without a worker that has room instead
        self._failures += 1
        # The registry said that the model is there: the worker has just let it go, and others may have it.
        if not (error.kind.value.retry_elsewhere or unknown) or self._failures > self._dispatch.max_attempts:
            raise error
        if lost or (error.kind is ErrorKind.ENGINE_FAILED and session.draining):
            await self._suspicion.call_lost(session, call)

    def _live(self) -> Sequence[Session]:
        return self._suspicion.places(self._dispatch.directory.live(self.model, needs=self._needs))


def embed_call(request: pb.EmbedRequest, dispatch: Dispatch, claim: Claim) -> UnaryCall[pb.EmbedResponse]:
    """Vectors."""
    return UnaryCall(
        request,
        lambda stub: stub.Embed(request, timeout=dispatch.embed_timeout),
        dispatch,
        claim,
        needs=_EMBEDS,
        size=len(request.inputs),
        counted=lambda response: response.prompt_tokens,
        whole=lambda response: _has_all(request.inputs, [len(each.values) for each in response.embeddings]),
        renamed=("inputs", "input"),
    )


def classify_call(request: pb.ClassifyRequest, dispatch: Dispatch, claim: Claim) -> UnaryCall[pb.ClassifyResponse]:
    """Classes."""
    return UnaryCall(
        request,
        lambda stub: stub.Classify(request, timeout=dispatch.embed_timeout),
        dispatch,
        claim,
        needs=_CLASSIFIES,
        size=len(request.inputs),
        counted=lambda response: response.prompt_tokens,
        whole=lambda response: (
            _has_all(request.inputs, [len(each.scores) for each in response.results])
            and all(len(each.scores) == len(response.labels) for each in response.results)
        ),
        renamed=("inputs", "input"),
    )


def _has_all(inputs: Sized, lengths: Sequence[int]) -> bool:
    """Whether there are as many rows of numbers as inputs, all of one length."""
    return len(lengths) == len(inputs) and len(set(lengths)) == 1 and lengths[0] > 0


def tokenize_call(request: pb.TokenizeRequest, dispatch: Dispatch, claim: Claim) -> UnaryCall[pb.TokenizeResponse]:
    """Token ids of a text or a conversation; no model computes."""
    return UnaryCall(request, lambda stub: stub.Tokenize(request, timeout=dispatch.stall_ceiling), dispatch, claim)


def detokenize_call(
    request: pb.DetokenizeRequest, dispatch: Dispatch, claim: Claim
) -> UnaryCall[pb.DetokenizeResponse]:
    """The text of token ids."""
    return UnaryCall(
        request,
        lambda stub: stub.Detokenize(request, timeout=dispatch.stall_ceiling),
        dispatch,
        claim,
        renamed=("token_ids", "tokens"),
    )
