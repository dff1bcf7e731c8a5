"""InferenceService: the border between gRPC and the engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING, Any, TypeVar

import grpc.aio

from mesh import wire
from mesh.engine.base import Chat, ModelInfo, Text
from mesh.errors import ErrorKind, MeshError, invalid
from mesh.log import bind_request_id
from mesh.metrics import WorkerMetrics
from mesh.v1 import inference_pb2 as pb
from mesh.v1 import inference_pb2_grpc as pb_grpc
from mesh.worker.call import Call, tell
from mesh.worker.convert import check_token_ids, find_model, to_chat, to_classify_inputs, to_embed_inputs
from mesh.worker.events import check_answer_size, classify_response, describe, embed_response
from mesh.worker.identity import Identity
from mesh.worker.session import Session
from mesh.worker.streams import Streams

log = logging.getLogger(__name__)
T = TypeVar("T")

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]


class InferenceServicer(pb_grpc.InferenceServiceServicer):
    """Serves one engine. The streaming methods are coroutines that write, not generators that yield: a generator that
    waits at a `yield` when its call is cancelled is closed some time later, and its rows would run on until then."""

    def __init__(self, streams: Streams, identity: Identity, metrics: WorkerMetrics) -> None:
        self.sessions: set[Session] = set()
        self.session_messages = 0  # of sessions that have ended
        self._streams = streams
        self._engine = streams.engine
        self._identity = identity
        self._metrics = metrics

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See inference.proto."""
        bind_request_id(request.request_id)
        await guard(context, Call(self._streams, context, tell).run(request))

    async def Session(self, requests: AsyncIterator[pb.SessionRequest], context: Context) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See inference.proto."""
        session = Session(self._streams, self._identity, self._metrics, context)
        self.sessions.add(session)
        try:
            await guard(context, session.run(requests))
        finally:
            self.sessions.discard(session)
            self.session_messages += session.messages

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """See inference.proto."""
        bind_request_id(request.request_id)
        return await guard(context, self._embed(request))

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        """See inference.proto."""
        bind_request_id(request.request_id)
        return await guard(context, self._classify(request))

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        """See inference.proto."""
        return await guard(context, self._tokenize(request))

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeResponse:
        """See inference.proto."""
        return await guard(context, self._detokenize(request))

    async def DescribeModel(self, request: pb.DescribeModelRequest, context: Context) -> pb.DescribeModelResponse:
        """See inference.proto."""
        return await guard(context, self._describe(request))

    async def _embed(self, request: pb.EmbedRequest) -> pb.EmbedResponse:
        model = self._model(request.model)
        with self._streams.call():
            embeddings = await self._engine.embed(
                model.name,
                to_embed_inputs(request, model),
                dimensions=request.dimensions if request.HasField("dimensions") else None,
                normalize=request.normalize if request.HasField("normalize") else None,
                truncate=request.truncate,
            )
            check_answer_size(embeddings.vectors)
            if len(embeddings.vectors) > 1:  # up to millions of numbers
                return await asyncio.to_thread(embed_response, embeddings)
            return embed_response(embeddings)

    async def _classify(self, request: pb.ClassifyRequest) -> pb.ClassifyResponse:
        model = self._model(request.model)
        with self._streams.call():
            found = await self._engine.classify(
                model.name, to_classify_inputs(request), raw=request.raw, truncate=request.truncate
            )
            check_answer_size(found.scores)
            return classify_response(found)

    async def _tokenize(self, request: pb.TokenizeRequest) -> pb.TokenizeResponse:
        model = self._model(request.model)
        special = request.add_special_tokens if request.HasField("add_special_tokens") else True
        ids = await self._engine.tokenize(model.name, _tokenize_input(request), add_special_tokens=special)
        return pb.TokenizeResponse(token_ids=ids, context_length=model.context_length)

    async def _detokenize(self, request: pb.DetokenizeRequest) -> pb.DetokenizeResponse:
        model = self._model(request.model)
        check_token_ids("token_ids", request.token_ids, model)
        text = await self._engine.detokenize(
            model.name, list(request.token_ids), keep_special_tokens=request.keep_special_tokens
        )
        return pb.DetokenizeResponse(text=text)

    async def _describe(self, request: pb.DescribeModelRequest) -> pb.DescribeModelResponse:
        return describe(self._model(request.model), self._engine)

    def _model(self, name: str) -> ModelInfo:
        return find_model(self._engine.models, name)


def _tokenize_input(request: pb.TokenizeRequest) -> Text | Chat:
    match request.WhichOneof("input"):
        case "text":
            return Text(request.text)
        case "chat":
            return to_chat(request.chat)
        case _:
            raise invalid("input", "an input must be given: 'text' or 'chat'")


async def guard(context: Context, work: Awaitable[T]) -> T:
    """Turn what goes wrong into a status; a client that has gone is nobody's error."""
    error: MeshError | None = None
    try:
        return await work
    except* MeshError as group:
        error = _first(group)
    except* (grpc.aio.BaseError, asyncio.InvalidStateError):
        log.debug("the client went away during a write")
    except* Exception:
        log.exception("a call failed")
        error = MeshError(ErrorKind.ENGINE_FAILED, "the worker failed to serve the call")
    if error is not None:
        await wire.abort(context, error)
    raise asyncio.CancelledError("the client has gone")


def _first(group: BaseExceptionGroup[MeshError]) -> MeshError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
