"""A server with vLLM's gRPC service, `vllm serve --grpc`, as the source of a worker's tokens.

The tokenizer is taken from the server. Two workers whose servers serve a model of the same name with the same tokenizer
are taken to have the same weights, of which the service tells nothing: so an answer goes on at the other one.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import tempfile
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from mesh import wire
from mesh.engine.base import ModelInfo, Request
from mesh.engine.sourced.source import Piece, Row, Source
from mesh.engine.transformers.loading.options import LoadOptions
from mesh.engine.transformers.loading.text_side import TextSide, load_tokenizer_side
from mesh.errors import ErrorKind, MeshError, invalid, out_of_range
from mesh.log import kv
from mesh.vllm.v1 import engine_pb2 as vllm
from mesh.worker.vllm.archive import unpack
from mesh.worker.vllm.continuation import check, to_piece, to_wire
from mesh.worker.vllm.servicer import SERVICE

log = logging.getLogger(__name__)

_ASK_SECONDS = 10.0
_TOKENIZER_SECONDS = 60.0
_MOST_TOKENIZER_BYTES = 256 * 1024 * 1024
# Errors that are about the request, or that another worker may not have. Others would tell a client of our own affairs
# with the server, such as a certificate that it does not like.
_TOLD = frozenset(
    {
        ErrorKind.INVALID_REQUEST,
        ErrorKind.CONTEXT_LENGTH_EXCEEDED,
        ErrorKind.PAYLOAD_TOO_LARGE,
        ErrorKind.OVERLOADED,
        ErrorKind.WORKER_LOST,
        ErrorKind.DRAINING,
    }
)


@dataclass(frozen=True, slots=True)
class UpstreamOptions:
    """Where the server is, and what is said of its model besides: of `text` its name, context length, templates and
    parsers count."""

    address: str
    text: LoadOptions
    tls: wire.Tls | None = None


class UpstreamSource(Source):
    """See Source."""

    name = "vllm-grpc"

    def __init__(self, options: UpstreamOptions) -> None:
        super().__init__()
        self._options = options
        self._channel: grpc.aio.Channel | None = None
        self._prefix = uuid.uuid4().hex[:12]  # the server may have other clients with names of requests like ours

    async def open(self) -> tuple[TextSide, ModelInfo]:
        """See Source."""
        self._channel = wire.channel(self._options.address, tls=self._options.tls)
        try:
            told = await self._ask("GetModelInfo", vllm.GetModelInfoRequest(), vllm.GetModelInfoResponse)
            archive = await asyncio.wait_for(self._archive(), _TOKENIZER_SECONDS)
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            rpc = isinstance(error, grpc.aio.AioRpcError)
            why = wire.from_rpc_error(error, "--upstream-").message if rpc else "it is silent"
            text = f"the server at --upstream {self._options.address} cannot be used: {why}"
            raise MeshError(ErrorKind.INVALID_REQUEST, text, param="upstream") from None
        if not told.is_generation:
            raise invalid("upstream", f"the model '{told.served_model_name}' of the server generates no text")
        side = await asyncio.to_thread(self._text_side, told, archive)
        info = self._describe(told, side)
        log.info("model is upstream", extra=kv(model=info.name, server=self._options.address))
        return side, info

    async def _ask(self, method: str, request: Message, response: type[Any]) -> Any:
        assert self._channel is not None
        call: Any = self._channel.unary_unary(
            f"/{SERVICE}/{method}", type(request).SerializeToString, response.FromString
        )
        return await call(request, timeout=_ASK_SECONDS)

    def _stream(self, method: str, request: Message, response: type[Any]) -> Any:
        assert self._channel is not None
        call: Any = self._channel.unary_stream(
            f"/{SERVICE}/{method}", type(request).SerializeToString, response.FromString
        )
        return call(request)

    async def _archive(self) -> bytes:
        found, digest = bytearray(), ""
        async for chunk in self._stream("GetTokenizer", vllm.GetTokenizerRequest(), vllm.GetTokenizerChunk):
            found += chunk.data
            digest = chunk.sha256 or digest
            if len(found) > _MOST_TOKENIZER_BYTES:
                raise out_of_range("upstream", "the size of the server's tokenizer", 0, _MOST_TOKENIZER_BYTES)
        if digest != hashlib.sha256(found).hexdigest():
            raise invalid("upstream", "the tokenizer of the server at --upstream came damaged: its hash is another one")
        return bytes(found)

    def _text_side(self, told: vllm.GetModelInfoResponse, archive: bytes) -> TextSide:
        name = told.served_model_name or told.model_path
        with tempfile.TemporaryDirectory(prefix="mesh-upstream-") as folder:
            unpack(archive, Path(folder), _MOST_TOKENIZER_BYTES)
            return load_tokenizer_side(
                replace(self._options.text, path=folder, name=self._options.text.name or name),
                log.info,
                eos_token_ids=tuple(told.eos_token_ids),
                architecture=next(iter(told.architectures), ""),
                identity=f"vllm-grpc {name}",
            )

    def _describe(self, told: vllm.GetModelInfoResponse, side: TextSide) -> ModelInfo:
        wanted, most = self._options.text.context_length, told.max_context_length
        if wanted is not None and wanted > most:
            raise out_of_range("context_length", wanted, 1, most)
        capabilities = {"completion", "resume", "logprobs", "constraint"}
        if side.chat.has_template:
            capabilities |= {"chat", "tools"} if side.chat.supports_tools else {"chat"}
        return ModelInfo(
            name=side.name,
            fingerprint=side.fingerprint,
            context_length=wanted or most,
            capabilities=frozenset(capabilities),
            vocab_size=told.vocab_size,
            eos_token_ids=side.eos_token_ids,
            architecture=side.architecture,
            dialect=side.chat.dialect,
        )

    async def close(self) -> None:
        """See Source."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    def check(self, request: Request) -> None:
        """See Source."""
        check(request)

    async def follow(self, row: Row) -> AsyncGenerator[Piece]:
        """See Source."""
        top = row.request.output.logprobs
        call = self._stream("Generate", to_wire(row, f"{self._prefix}-{row.key}-{row.choice}"), vllm.GenerateResponse)
        try:
            async for message in call:
                if message.HasField("chunk") and message.chunk.token_ids:
                    yield to_piece(message.chunk, top)
        finally:
            call.cancel()

    def explain(self, error: Exception) -> MeshError:
        """See Source."""
        if not isinstance(error, grpc.aio.AioRpcError):
            log.error("a row broke", exc_info=error)
            return MeshError(ErrorKind.PROTOCOL_ERROR, "the answer of the vLLM server could not be read")
        found = wire.from_rpc_error(error)
        if found.kind in _TOLD:
            return found
        log.error("the vLLM server failed", extra=kv(code=error.code().name, why=error.details()))
        return MeshError(ErrorKind.ENGINE_FAILED, "the vLLM server failed to serve the request")
