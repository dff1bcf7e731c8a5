"""A trace runs from the client's own span over the gateway and its attempts to the worker and its engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext

from mesh.errors import MeshError
from mesh.trace import Spans, open_spans
from tests.component.gateway_fixture import GatewayUnderTest, body
from tests.component.gateway_worker import FakeWorker
from tests.harness import Mesh, eventually

TRACE, CLIENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{CLIENT}-01"}


class Collector(otlp_grpc.TraceServiceServicer):
    """Takes what is exported."""

    def __init__(self) -> None:
        self.spans: dict[str, Span] = {}
        self.services: dict[str, str] = {}

    async def Export(self, request: Any, context: Any) -> otlp.ExportTraceServiceResponse:  # pyright: ignore[reportIncompatibleMethodOverride]
        for resource in request.resource_spans:
            service = {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"]
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans[span.name] = span
                    self.services[span.name] = service
        return otlp.ExportTraceServiceResponse()


@asynccontextmanager
async def collecting() -> AsyncGenerator[tuple[Collector, str]]:
    """A collector on a free port."""
    collector, server = Collector(), grpc.aio.server()
    otlp_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield collector, f"http://127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_processes_export_one_trace(tmp_path: Path) -> None:
    async with collecting() as (collector, endpoint):
        flags = ("--otlp-endpoint", endpoint)
        mesh = Mesh(tmp_path, worker_args=("--engine", "scripted", "--script-tokens", "5", *flags), gateway_args=flags)
        await asyncio.to_thread(mesh.__enter__)
        try:
            async with httpx.AsyncClient(timeout=30) as http:
                chat = {"model": mesh.model, "messages": [{"role": "user", "content": "hi"}]}
                answer = await http.post(f"{mesh.gateway.url}/v1/chat/completions", json=chat, headers=HEADERS)
            assert answer.status_code == 200
            await eventually(lambda: len(collector.spans) == 6, within=15)
        finally:
            await asyncio.to_thread(mesh.__exit__, None, None, None)
    spans, route = collector.spans, "POST /v1/chat/completions"
    chain = {route: CLIENT, "attempt": route, "generate": "attempt"}
    chain |= dict.fromkeys(("queue", "prefill", "decode"), "generate")
    for name, parent in chain.items():
        expected = parent if parent == CLIENT else spans[parent].span_id.hex()
        assert (name, spans[name].trace_id.hex(), spans[name].parent_span_id.hex()) == (name, TRACE, expected)
        assert spans[name].end_time_unix_nano >= spans[name].start_time_unix_nano
    assert [collector.services[name] for name in chain] == ["mesh-gateway"] * 2 + ["mesh-worker"] * 4
    facts = {each.key: each.value.int_value for each in spans["generate"].attributes}
    assert facts["steps"] >= 5


async def test_each_attempt_has_a_span() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with FakeWorker("a") as a, FakeWorker("b") as b, GatewayUnderTest(spans=Spans(provider)) as gateway:
        await gateway.add(a)
        a.stop_after = 5
        answering = asyncio.create_task(gateway.chat(max_tokens=12))
        await eventually(lambda: any(len(row.tokens[0]) == 5 for row in a.rows.values()))
        await gateway.add(b)
        await a.kill()
        assert (await answering).status_code == 200
        await eventually(lambda: len(exporter.get_finished_spans()) == 3)
    lost, finished, whole = exporter.get_finished_spans()
    facts = [dict(span.attributes or {}) for span in (lost, finished)]
    found = [(each["worker"], each["tokens"], each["outcome"]) for each in facts]
    assert found == [("a", 5, "lost"), ("b", 7, "finished")]
    assert [span.status.is_unset for span in (lost, finished)] == [False, True]
    assert whole.name == "POST /v1/chat/completions"
    contexts = [context(span) for span in (lost, finished)]
    assert [span.parent and span.parent.span_id for span in (lost, finished)] == [context(whole).span_id] * 2
    given = [start.request.traceparent for worker in (a, b) for start in worker.starts]
    assert [each.rpartition("-")[0] for each in given] == [f"00-{c.trace_id:032x}-{c.span_id:016x}" for c in contexts]


def context(span: ReadableSpan) -> SpanContext:
    assert span.context is not None
    return span.context


async def test_without_an_exporter_the_clients_context_goes_to_the_worker() -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        await gateway.http.post("/v1/chat/completions", json=body(), headers=HEADERS)
    assert worker.starts[0].request.traceparent == HEADERS["traceparent"]


def test_an_endpoint_is_a_url() -> None:
    assert open_spans(None, "mesh-gateway", "g") is None
    with pytest.raises(MeshError, match="--otlp-endpoint must begin with http://"):
        open_spans("127.0.0.1:4317", "mesh-gateway", "g")
