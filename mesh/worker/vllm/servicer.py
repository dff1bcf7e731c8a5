"""A worker as gateways for vLLM see it: `vllm.grpc.engine.VllmEngine` over the streams that all requests share.

The service knows one model and no adapters, so it serves a worker's only base model.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from mesh.engine.base import ModelInfo, Tokens
from mesh.errors import ErrorKind, MeshError, invalid
from mesh.log import bind_request_id
from mesh.version import version
from mesh.vllm.v1 import engine_pb2 as vllm
from mesh.worker.call import WINDOW, Call
from mesh.worker.convert import check_token_ids, find_model
from mesh.worker.identity import Identity
from mesh.worker.servicer import guard
from mesh.worker.streams import Streams
from mesh.worker.vllm.answer import Answer
from mesh.worker.vllm.archive import chunks, pack
from mesh.worker.vllm.request import to_generate

SERVICE = "vllm.grpc.engine.VllmEngine"

T = TypeVar("T")
Q = TypeVar("Q", bound=Message)

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]


class VllmServicer:
    """Serves one engine; see engine.proto in protos/mesh/vllm for the messages."""

    def __init__(self, streams: Streams, identity: Identity) -> None:
        self._streams = streams
        self._engine = streams.engine
        self._identity = identity
        self._live: dict[str, tuple[Call[vllm.GenerateResponse], Answer]] = {}
        self._archive: bytes | None = None

    def handlers(self) -> grpc.GenericRpcHandler:
        """What the server calls."""
        methods = {
            "Generate": _streaming(vllm.GenerateRequest, self._generate),
            "Embed": _unary(vllm.EmbedRequest, self._embed),
            "Abort": _unary(vllm.AbortRequest, self._abort),
            "HealthCheck": _unary(vllm.HealthCheckRequest, self._health),
            "GetModelInfo": _unary(vllm.GetModelInfoRequest, self._model_info),
            "GetServerInfo": _unary(vllm.GetServerInfoRequest, self._server_info),
            "GetLoads": _unary(vllm.GetLoadsRequest, self._loads),
            "GetTokenizer": _streaming(vllm.GetTokenizerRequest, self._tokenizer),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def _generate(self, request: vllm.GenerateRequest, context: Context) -> None:
        name = request.request_id = request.request_id or uuid.uuid4().hex
        bind_request_id(name)
        if name in self._live:
            raise invalid("request_id", f"'request_id' is '{name}', which is the name of a live request")
        answer = Answer(streamed=request.stream, stop_token_ids=request.sampling_params.stop_token_ids)
        call = Call(self._streams, context, answer.tell)
        self._live[name] = call, answer
        try:
            # What is sent at the end alone has to be kept until then, however slow the reader.
            await call.run(to_generate(request), credit=WINDOW if request.stream else None)
        finally:
            del self._live[name]

    async def _abort(self, request: vllm.AbortRequest) -> vllm.AbortResponse:
        for name in request.request_ids:
            if name in self._live:
                call, answer = self._live[name]
                call.end(answer.abort())
        return vllm.AbortResponse()

    async def _embed(self, request: vllm.EmbedRequest) -> vllm.EmbedResponse:
        bind_request_id(request.request_id)
        model, ids = self._model(), tuple(request.tokenized.input_ids)
        if not ids:
            raise invalid("tokenized", "'tokenized' must hold at least one token id")
        check_token_ids("tokenized", ids, model)
        with self._streams.call():
            found = await self._engine.embed(model.name, [Tokens(ids)], dimensions=None, normalize=None, truncate=False)
        (vector,) = found.vectors
        return vllm.EmbedResponse(embedding=vector, prompt_tokens=found.prompt_tokens, embedding_dim=len(vector))

    async def _health(self, request: vllm.HealthCheckRequest) -> vllm.HealthCheckResponse:
        draining = self._streams.draining
        return vllm.HealthCheckResponse(healthy=not draining, message="draining" if draining else "serving")

    async def _model_info(self, request: vllm.GetModelInfoRequest) -> vllm.GetModelInfoResponse:
        model = self._model()
        return vllm.GetModelInfoResponse(
            model_path=model.name,
            tokenizer_path=model.name,
            served_model_name=model.name,
            is_generation="completion" in model.capabilities,
            max_context_length=model.context_length,
            max_req_input_len=max(0, model.context_length - 1),
            vocab_size=model.vocab_size,
            architectures=[model.architecture] if model.architecture else [],
            eos_token_ids=model.eos_token_ids,
        )

    async def _server_info(self, request: vllm.GetServerInfoRequest) -> vllm.GetServerInfoResponse:
        return vllm.GetServerInfoResponse(
            active_requests=len(self._streams),
            is_paused=self._streams.draining,
            uptime_seconds=(datetime.now(UTC) - self._identity.started_at).total_seconds(),
            server_type="vllm-grpc",
            data_parallel_size=1,
            model_dtype=self._model().dtype,
            max_num_seqs=self._engine.load().slots,
        )

    async def _loads(self, request: vllm.GetLoadsRequest) -> vllm.GetLoadsResponse:
        if request.dp_rank:
            raise invalid("dp_rank", f"'dp_rank' must be 0, not {request.dp_rank}")
        load = self._engine.load()
        running = load.running + load.paused
        told = vllm.SchedulerLoad(
            num_running_reqs=running,
            num_waiting_reqs=load.waiting,
            num_total_reqs=running + load.waiting,
            num_used_tokens=load.running_tokens,
            token_usage=load.kv_used,
            max_running_requests=load.slots,
            num_waiting_uncached_tokens=load.pending_tokens,
        )
        return vllm.GetLoadsResponse(version=version(), dp_rank_count=1, loads=[told])

    async def _tokenizer(self, request: vllm.GetTokenizerRequest, context: Context) -> None:
        if self._archive is None:
            files = await self._engine.tokenizer_files(self._model().name)
            self._archive = await asyncio.to_thread(pack, files)
        for chunk in chunks(self._archive):
            await context.write(chunk)

    def _model(self) -> ModelInfo:
        return find_model(self._engine.models, "")


def _unary(request: type[Q], behaviour: Callable[[Q], Awaitable[Message]]) -> grpc.RpcMethodHandler[Any, Any]:
    async def handle(message: Q, context: Context) -> Message:
        return await guard(context, _in_its_words(behaviour(message)))

    return grpc.unary_unary_rpc_method_handler(handle, request.FromString, _serialize)


def _streaming(request: type[Q], behaviour: Callable[[Q, Context], Awaitable[None]]) -> grpc.RpcMethodHandler[Any, Any]:
    """It writes instead of yielding; see InferenceServicer."""

    async def handle(message: Q, context: Context) -> None:
        await guard(context, _in_its_words(behaviour(message, context)))

    return grpc.unary_stream_rpc_method_handler(handle, request.FromString, _serialize)


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


async def _in_its_words(work: Awaitable[T]) -> T:
    """To these clients UNIMPLEMENTED is a server without the method, not a request with an option too many."""
    try:
        return await work
    except MeshError as error:
        if error.kind is ErrorKind.UNSUPPORTED:
            raise MeshError(ErrorKind.INVALID_REQUEST, error.message, param=error.param) from None
        raise
