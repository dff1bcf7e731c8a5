"""One HTTP exchange: its request id, its clock, its generation, and the one line that is logged at its end.

An exchange outlives the view: it ends when the last byte went out or the client hung up. It therefore lives around the
whole application as an ASGI middleware, and it owns the generation: whatever happens inside, in the end it is closed.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

from quart import request
from werkzeug.exceptions import RequestEntityTooLarge

from gateway import errors
from gateway.routing.aliases import Detour
from gateway.routing.hedge import Hedge
from gateway.routing.trail import Attempt, shown
from mesh.errors import ErrorKind, MeshError, deadline_passed
from mesh.log import bind_request_id, kv
from mesh.metrics import GatewayMetrics
from mesh.trace import Span, Spans
from mesh.v1 import inference_pb2 as pb

log = logging.getLogger(__name__)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

CLIENT_CLOSED = 499  # in logs and metrics only: nobody is there to read it
CONNECTION_KEY = "mesh.connection"
INSIDE_KEY = "mesh.inside"
_KEY = "mesh.exchange"
# What of a model's name stands in a header as it is.
_IN_HEADER = "/:@+=,()"
_GIVEN_ID = re.compile(r"[!-~]{1,128}")
# Paths that probes and scrapers ask for all the time.
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
# OpenTelemetry's names for what a route does, where it has one; a conversation where none is given.
_OPERATIONS = {
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/score": "score",
    "/v1/rerank": "rerank",
    "/v1/classify": "classify",
    "/classify": "classify",
    "/v1/moderations": "moderation",
    "/tokenize": "tokenize",
    "/detokenize": "detokenize",
}
# A client that still sends its refused body would miss the answer if the connection were closed under it.
_LINGER_SECONDS = 2.0


class Work(Protocol):
    """What an exchange has done for it: a generation, several of them, or a call with one answer."""

    @property
    def model(self) -> str:
        """The model asked for."""
        ...

    @property
    def started(self) -> pb.Started | None:
        """The facts about the prompt, once they are known."""
        ...

    @property
    def attempts(self) -> int:
        """Workers that were asked."""
        ...

    @property
    def resumes(self) -> int:
        """Times that it went on elsewhere."""
        ...

    @property
    def hedge(self) -> Hedge | None:
        """What became of a second worker, if the first token was late."""
        ...

    @property
    def trail(self) -> list[Attempt]:
        """The workers that were asked, and what came from each."""
        ...

    @property
    def completion_tokens(self) -> int:
        """Tokens of the answer so far."""
        ...

    def abort(self, error: MeshError) -> None:
        """Let whoever waits for it get this error."""
        ...

    def close(self) -> None:
        """End it, whatever its state."""
        ...


class Permit(Protocol):
    """What the API key of a request allows it."""

    @property
    def models(self) -> tuple[str, ...]:
        """The models that it may use; none are all."""
        ...

    @property
    def priority(self) -> int | None:
        """The most urgent priority that it may ask for, lower being more urgent; None is any."""
        ...

    def allows(self, model: str) -> bool:
        """Whether it may use the model."""
        ...

    def end(self) -> None:
        """The request has ended."""
        ...


class Connection(Protocol):
    """The client's connection below ASGI, for the body of a stream."""

    def ready(self) -> bool:
        """Whether it takes more: the client is there and reads."""
        ...

    def write(self, data: bytes) -> None:
        """Write a part of the body, not empty. The head must be out, and all that was sent before."""
        ...


@dataclass(frozen=True, slots=True)
class Inside:
    """Whom the gateway itself makes a request for, such as for a line of a batch: in place of a key. It is never more
    urgent than `priority`."""

    tenant: str
    priority: int


class Exchange:
    """What is known of one request and its answer."""

    def __init__(self, scope: Scope) -> None:
        self.request_id = _request_id(scope)
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        # None on a server that is not ours.
        self.connection: Connection | None = scope.get(CONNECTION_KEY)
        self.anthropic = _is_anthropic(scope)  # the API that the client speaks; otherwise it is OpenAI's
        self.route = "unknown"
        self.model = ""
        self.alias = ""  # name that stood for the model, if one did
        self.detour: Detour | None = None
        self.tenant = ""  # id of the API key that it came with; "" without keys
        self.inside: Inside | None = scope.get(INSIDE_KEY)  # None if it came from a client
        self.priority = self.inside.priority if self.inside is not None else 0  # lower is served earlier
        self.deadline: float | None = None  # when the answer is of no use any more, by the event loop's clock
        self.left_out: set[str] = set()  # kinds of tools of the request that the model is not offered
        self.cache_scope = ""  # who shares its cached prefixes; everybody if empty
        self.permit: Permit | None = None  # None without keys
        self.streamed = False
        self.traced = (b"x-mesh-trace", b"1") in scope["headers"]  # wants to know which worker did what
        self.status = CLIENT_CLOSED
        self.error = ""
        self.generation: Work | None = None
        self.opening: asyncio.Task[Any] | None = None  # starts the generation of a stream
        self.finished = False
        self.detached = False  # goes on when its client has been answered, until `Exchanges.end`
        self.began_at = time.monotonic()
        self.first_token_at: float | None = None
        self.last_token_at: float | None = None
        self.traceparent = _header(scope, b"traceparent")
        self.span: Span | None = None  # where traces are exported
        self._hidden: Mapping[str, str] = {}
        self._timer: asyncio.TimerHandle | None = None

    def token(self) -> None:
        """Tokens have arrived now."""
        self.last_token_at = time.monotonic()
        if self.first_token_at is None:
            self.first_token_at = self.last_token_at

    def expire_in(self, seconds: float) -> None:
        """Set the deadline. Whatever is under way then fails with deadline_exceeded."""
        loop = asyncio.get_running_loop()
        self.deadline = loop.time() + seconds
        self._timer = loop.call_at(self.deadline, self._expire, seconds)

    def _expire(self, seconds: float) -> None:
        if self.generation is not None:
            self.generation.abort(deadline_passed(seconds))

    @property
    def headers(self) -> dict[str, str]:
        """What every answer has: the id of its request, and the milliseconds until its headers were ready. One to a
        name that stands for models also tells which of them it is from, and which it should be from and why not, as far
        as its key may use these; one to a request with tools that were not offered to the model names their kinds."""
        milliseconds = round((time.monotonic() - self.began_at) * 1000)
        own = {"request-id": self.request_id} if self.anthropic else {}
        if self.alias and self.may_use(self.model):
            own["x-mesh-model"] = quote(self.model, _IN_HEADER)
        if self.detour is not None and self.may_use(self.detour.instead_of):
            own["x-mesh-fallback"] = f"{quote(self.detour.instead_of, _IN_HEADER)}; {self.detour.why}"
        if self.left_out:
            own["x-mesh-tools-left-out"] = ", ".join(quote(kind) for kind in sorted(self.left_out))
        return {"x-request-id": self.request_id, "openai-processing-ms": str(milliseconds), **own}

    def failed(self, error: Exception) -> errors.ErrorAnswer:
        """Note an error, and how it is answered in the client's API."""
        if isinstance(error, MeshError):
            for model, name in self._hidden.items():
                error = error.saying(f"'{model[:200]}'", f"'{name[:200]}'")
        failure = errors.answer(error)
        self.error = failure.code
        return errors.anthropic(failure, self.request_id) if self.anthropic else failure

    @property
    def trail(self) -> bytes:
        """For the client that asked for it, which worker produced which tokens; empty for others."""
        return shown(self.generation.trail) if self.traced and self.generation is not None else b""

    @property
    def spent(self) -> int:
        """Tokens of prompt and answer so far."""
        generation = self.generation
        if generation is None:
            return 0
        prompt = generation.started.prompt_tokens if generation.started is not None else 0
        return prompt + generation.completion_tokens

    def hide(self, name: str, models: Iterable[str]) -> None:
        """Errors speak of the name that the client asked for, where they are about a model behind it that its key may
        not use."""
        self._hidden = {model: name for model in models if not self.may_use(model)}

    def may_use(self, model: str) -> bool:
        """Whether its key allows the model."""
        return self.permit is None or self.permit.allows(model)

    def check_model(self, model: str) -> None:
        """Raise forbidden for a model that its key does not allow, whether there is such a model or not."""
        if self.permit is not None and not self.permit.allows(model):
            allowed = ", ".join(self.permit.models)
            text = f"this key may not use the model '{model[:200]}'; it may use: {allowed}"
            raise MeshError(ErrorKind.FORBIDDEN, text, param="model")

    def set_priority(self, asked: int | None) -> None:
        """Take the priority that the client asks for, or none. Raises forbidden for one that its key does not allow."""
        most = self.permit.priority if self.permit is not None else None
        if most is not None and asked is not None and asked < most:
            text = f"'priority' must be at least {most} with this key, not {asked}; lower is served earlier"
            raise MeshError(ErrorKind.FORBIDDEN, text, param="priority")
        priority = max(0, most or 0) if asked is None else asked
        self.priority = priority if self.inside is None else max(priority, self.inside.priority)

    def close(self) -> None:
        """Let go of everything."""
        if self._timer is not None:
            self._timer.cancel()
        if self.opening is not None:
            self.opening.cancel()
        if self.generation is not None:
            self.generation.close()
        if self.permit is not None:
            self.permit.end()


def current() -> Exchange:
    """The exchange of the request that is being handled."""
    scope: Any = request.scope
    return scope[_KEY]


class Exchanges:
    """The middleware. `live` are those under way, `draining` says that the server stops; `limit` is the largest body in
    bytes, `limits` are those of paths that have their own."""

    def __init__(
        self,
        app: AsgiApp,
        metrics: GatewayMetrics,
        *,
        limit: int,
        limits: Mapping[str, int] | None = None,
        spans: Spans | None = None,
    ) -> None:
        self.live: set[Exchange] = set()
        self.draining = False
        self._app = app
        self._metrics = metrics
        self._limit = limit
        self._limits = limits or {}
        self._spans = spans
        # Not the probe or scrape that asks.
        metrics.active.set_function(lambda: sum(exchange.path not in _QUIET for exchange in self.live))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope)
        bind_request_id(exchange.request_id)
        scope[_KEY] = exchange
        if self._spans is not None and exchange.path not in _QUIET:
            exchange.span = self._spans.start(exchange.method, exchange.traceparent)
        self.live.add(exchange)
        try:
            limit = self._limits.get(exchange.path, self._limit)
            if _content_length(scope) > limit:
                await self._refuse_body(exchange, receive, send, limit)
            else:
                await self._app(scope, receive, send)
        finally:
            if not exchange.detached:
                self.end(exchange)

    def begin(self, path: str, tenant: str) -> Exchange:
        """One without a client: a request that another gateway has answered goes on here, until `end`."""
        exchange = Exchange({"method": "POST", "path": path, "headers": []})
        exchange.route, exchange.tenant, exchange.detached, exchange.status = path, tenant, True, 200
        self.live.add(exchange)
        return exchange

    def end(self, exchange: Exchange) -> None:
        """Let go of an exchange, and report it."""
        self.live.discard(exchange)
        exchange.close()
        self._report(exchange)

    def abort(self, error: MeshError) -> None:
        """End all live generations with this error; their clients are told."""
        for exchange in self.live:
            if exchange.generation is not None:
                exchange.generation.abort(error)

    async def _refuse_body(self, exchange: Exchange, receive: Receive, send: Send, limit: int) -> None:
        """413 by the header alone. What the client sends meanwhile is read and dropped for a moment."""
        refusal = exchange.failed(RequestEntityTooLarge(f"the body must have at most {limit} bytes"))
        exchange.status, exchange.finished = refusal.status, True
        headers = {
            **refusal.headers,
            "content-length": str(len(refusal.body)),
            "connection": "close",
            **exchange.headers,
        }
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
        await send({"type": "http.response.body", "body": refusal.body, "more_body": True})
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                while (await receive()).get("more_body"):
                    pass
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _report(self, exchange: Exchange) -> None:
        """The canonical line, and the metrics."""
        status = exchange.status if exchange.finished else CLIENT_CLOSED
        seconds = time.monotonic() - exchange.began_at
        self._metrics.requests.labels(exchange.route, exchange.model, str(status)).inc()
        if exchange.path in _QUIET:
            return
        facts: dict[str, Any] = {
            "method": exchange.method,
            "path": exchange.path,
            "status": status,
            "seconds": round(seconds, 4),
        }
        if exchange.tenant:
            facts["tenant"] = exchange.tenant
        if exchange.error:
            facts["error"] = exchange.error
        if exchange.generation is not None:
            facts |= self._generation_facts(exchange, exchange.generation, seconds)
        log.info("request", extra=kv(**facts))
        if exchange.span is not None:
            error = facts.pop("error", "")
            exchange.span.end(f"{exchange.method} {exchange.route}", error, request_id=exchange.request_id, **facts)

    def _generation_facts(self, exchange: Exchange, generation: Work, seconds: float) -> dict[str, Any]:
        model, operation, started = exchange.model, _OPERATIONS.get(exchange.route, "chat"), generation.started
        error = exchange.error or ("" if exchange.finished else "client_closed")
        self._metrics.duration.labels(operation, model, error).observe(seconds)
        completion = generation.completion_tokens
        facts: dict[str, Any] = {
            "model": generation.model,
            "streamed": exchange.streamed,
            "attempts": generation.attempts,
            "resumes": generation.resumes,
            "completion_tokens": completion,
        }
        if exchange.alias:
            facts["alias"] = exchange.alias
        if exchange.detour is not None:
            facts |= {"instead_of": exchange.detour.instead_of, "why": exchange.detour.why}
        if generation.hedge is not None:
            facts["hedge"] = generation.hedge.value
        if started is None:
            return facts
        facts |= {"prompt_tokens": started.prompt_tokens, "cached_tokens": started.cached_tokens}
        self._metrics.tokens.labels(operation, model, "input").observe(started.prompt_tokens)
        self._metrics.tokens.labels(operation, model, "output").observe(completion)
        self._metrics.cached_tokens.labels(model).inc(started.cached_tokens)
        first, last = exchange.first_token_at, exchange.last_token_at
        if first is not None and last is not None:
            facts["ttft"] = round(first - exchange.began_at, 4)
            self._metrics.ttft.labels(operation, model).observe(first - exchange.began_at)
            if completion > 1:
                self._metrics.tpot.labels(operation, model).observe((last - first) / (completion - 1))
        return facts


def _request_id(scope: Scope) -> str:
    """The client's own, if it is one that can stand in a header and a log, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if _GIVEN_ID.fullmatch(given):
                return given
    return f"req-{uuid.uuid4().hex}"


def _is_anthropic(scope: Scope) -> bool:
    """Whether a request is one of Anthropic's API, which shares the path of its models with OpenAI's."""
    path: str = scope["path"]
    if path == "/v1/models" or path.startswith("/v1/models/"):
        return bool(_header(scope, b"anthropic-version"))
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def _header(scope: Scope, wanted: bytes) -> str:
    """The first header of that name, or nothing."""
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted), "")


def _content_length(scope: Scope) -> int:
    """Bytes that the client announces; 0 if it announces none."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0
