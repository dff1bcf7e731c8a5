"""A scripted worker with vLLM's gRPC service, as smg speaks it: a stream per request, a message per token."""

from __future__ import annotations

import asyncio
import hashlib
import io
import sys
import zipfile
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from scripted import Cut, Item, Refused, Scripted, options, word_ids

grpc: Any = import_module("grpc")
pb: Any = import_module("smg_grpc_proto.generated.vllm_engine_pb2")
pb_grpc: Any = import_module("smg_grpc_proto.generated.vllm_engine_pb2_grpc")
common: Any = import_module("smg_grpc_proto.generated.common_pb2")

_FILES = ("tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json", "chat_template.jinja")
_CONTEXT = 1_000_000
_CHUNK = 65536


class Engine(pb_grpc.VllmEngineServicer):
    """The calls that smg makes for chats."""

    def __init__(self) -> None:
        self._options = options()
        self._folder = Path(self._options.model_folder)
        self._scripted = Scripted(self._options)
        self._calls: dict[str, asyncio.Task[Any]] = {}
        self._words = word_ids(self._options.model_folder)

    async def HealthCheck(self, request: Any, context: Any) -> Any:
        """Healthy while it runs."""
        return pb.HealthCheckResponse(healthy=True, message="ok")

    async def GetModelInfo(self, request: Any, context: Any) -> Any:
        """What the model is."""
        return pb.GetModelInfoResponse(
            model_path=self._options.model_folder,
            tokenizer_path=self._options.model_folder,
            is_generation=True,
            max_context_length=_CONTEXT,
            vocab_size=len(self._words),
            served_model_name=self._options.model,
            model_type="llama",
            architectures=["LlamaForCausalLM"],
            eos_token_ids=[2],
            bos_token_id=1,
        )

    async def GetServerInfo(self, request: Any, context: Any) -> Any:
        """What the server is."""
        return pb.GetServerInfoResponse(
            active_requests=self._scripted.running, server_type="vllm-grpc", data_parallel_size=1
        )

    async def GetLoads(self, request: Any, context: Any) -> Any:
        """How busy it is."""
        running = self._scripted.running
        load = pb.SchedulerLoad(num_running_reqs=running, max_running_requests=512, num_total_reqs=running)
        return pb.GetLoadsResponse(dp_rank_count=1, loads=[load])

    async def GetTokenizer(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """The tokenizer's files as an archive, in pieces."""
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as written:
            for name in _FILES:
                if (self._folder / name).is_file():
                    written.write(self._folder / name, name)
        data = archive.getvalue()
        for place in range(0, len(data), _CHUNK):
            last = place + _CHUNK >= len(data)
            digest = hashlib.sha256(data).hexdigest() if last else ""
            yield common.GetTokenizerChunk(data=data[place : place + _CHUNK], sha256=digest)

    async def Abort(self, request: Any, context: Any) -> Any:
        """End requests."""
        for request_id in request.request_ids:
            if (call := self._calls.get(request_id)) is not None:
                call.cancel()
        return pb.AbortResponse()

    async def Generate(self, request: Any, context: Any) -> None:
        """One answer. It writes instead of yielding: a generator would be closed some time after its call."""
        call = asyncio.current_task()
        assert call is not None
        self._calls[request.request_id] = call
        try:
            async for message in self._messages(request, context):
                await context.write(message)
        finally:
            del self._calls[request.request_id]

    async def _messages(self, request: Any, context: Any) -> AsyncIterator[Any]:
        given = len(request.tokenized.input_ids)
        sent: list[int] = []
        try:
            sampling = request.sampling_params
            async for item in self._scripted.answer(sampling.temperature, given, sampling.max_tokens):
                if item.kind == "end":
                    yield _complete(sent, given, item)
                    continue
                token = 1 << 30 if item.kind == "garbage" else self._word(item)
                sent.append(token)
                if request.stream:
                    chunk = pb.GenerateStreamChunk(token_ids=[token], prompt_tokens=given, completion_tokens=len(sent))
                    yield pb.GenerateResponse(chunk=chunk)
        except Refused as refusal:
            await context.abort(_STATUS[str(refusal)], "refused as told")
        except Cut:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "cut as told")

    def _word(self, item: Item) -> int:
        return self._words[(item.place * 7 + item.wrong) % len(self._words)]


def _complete(sent: list[int], given: int, item: Item) -> Any:
    complete = pb.GenerateComplete(
        output_ids=sent, finish_reason="length", prompt_tokens=given, completion_tokens=item.completion_tokens
    )
    return pb.GenerateResponse(complete=complete)


_STATUS = {
    "exhausted": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "internal": grpc.StatusCode.INTERNAL,
}


async def main() -> None:
    """Serve until killed."""
    server = grpc.aio.server()
    pb_grpc.add_VllmEngineServicer_to_server(Engine(), server)
    server.add_insecure_port(f"127.0.0.1:{options().port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
