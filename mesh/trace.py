"""Traces, where OpenTelemetry's SDK is installed (the extra `otel`) and an endpoint is set.

Elsewhere there is no `Spans` object and nothing of this runs. A trace crosses processes as W3C's `traceparent`.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from mesh.errors import ErrorKind, MeshError, invalid

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer

_EXPORT_SECONDS = 5


class Span:
    """A piece of work that goes on, or did."""

    def __init__(self, tracer: Tracer, span: OtelSpan) -> None:
        self.began = time.time_ns()
        self._tracer = tracer
        self._span = span

    @property
    def traceparent(self) -> str:
        """What another process needs to know, to hang its spans below this one."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def child(self, name: str) -> Span:
        """A part of it that begins now."""
        return _start(self._tracer, name, self.traceparent)

    def part(self, name: str, after: float, seconds: float, **facts: Any) -> None:
        """A part of it that is over: it began so many seconds after the whole, and took so many."""
        from opentelemetry.trace import set_span_in_context

        begin = self.began + int(after * 1e9)
        span = self._tracer.start_span(name, set_span_in_context(self._span), start_time=begin)
        span.set_attributes(facts)
        span.end(begin + int(seconds * 1e9))

    def end(self, name: str = "", error: str = "", **facts: Any) -> None:
        """It is over. `error`: the code of what went wrong, if something did."""
        from opentelemetry.trace import StatusCode

        if name:
            self._span.update_name(name)
        self._span.set_attributes(facts)
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class Spans:
    """The spans of this process."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("mesh")

    def start(self, name: str, traceparent: str) -> Span:
        """A piece of work that begins now, below another process's; an empty or malformed one starts a trace."""
        return _start(self._tracer, name, traceparent)

    async def close(self) -> None:
        """Send what is left, for some seconds at most."""
        await asyncio.to_thread(self._provider.shutdown)


def _start(tracer: Tracer, name: str, traceparent: str) -> Span:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({"traceparent": traceparent})
    return Span(tracer, tracer.start_span(name, context))


def open_spans(endpoint: str | None, service: str, instance: str) -> Spans | None:
    """Spans that go to an OTLP collector over gRPC; None without an endpoint. Raises MeshError."""
    if endpoint is None:
        return None
    if not endpoint.startswith(("http://", "https://")):
        raise invalid("otlp_endpoint", f"--otlp-endpoint must begin with http:// or https://, not be '{endpoint}'")
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        text = "--otlp-endpoint needs OpenTelemetry: pip install 'inference-mesh[otel]'"
        raise MeshError(ErrorKind.UNSUPPORTED, text, param="otlp_endpoint") from None
    provider = TracerProvider(
        resource=Resource.create({"service.name": service, "service.instance.id": instance}), shutdown_on_exit=False
    )
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter, export_timeout_millis=_EXPORT_SECONDS * 1000))
    return Spans(provider)
