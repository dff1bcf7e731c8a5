"""The Quart application: routes, the error table, headers of every answer."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, cast

from quart import Quart, Response, current_app, request
from werkzeug.exceptions import NotFound, RequestEntityTooLarge

from gateway.access.book import Book
from gateway.access.connections import ConnectionLimits
from gateway.access.cors import Cors
from gateway.access.guard import Guard
from gateway.anthropic.messages import message_routes
from gateway.anthropic.models import model_info, model_page
from gateway.batches.batches import batch_routes
from gateway.batches.call import caller
from gateway.batches.contents import Contents
from gateway.batches.files import FORM_BYTES, UPLOAD_PATH, file_routes, request_with
from gateway.batches.places import Places
from gateway.batches.runner import Runner
from gateway.batches.work import Shop
from gateway.config import GatewayConfig
from gateway.deadline import HEADER, deadline_seconds
from gateway.exchange import AsgiApp, Exchanges, current
from gateway.health import health_routes
from gateway.openai.chat import chat_routes
from gateway.openai.classify import classify_routes
from gateway.openai.completions import completion_routes
from gateway.openai.conversations import conversation_item_routes, conversation_routes
from gateway.openai.decisions import decision_routes
from gateway.openai.embeddings import embedding_routes
from gateway.openai.images import ImageLimits
from gateway.openai.models import model_routes
from gateway.openai.moderations import moderation_routes
from gateway.openai.respond import StreamTimes
from gateway.openai.responses.background import BackgroundResponses
from gateway.openai.responses.routes import ResponseOptions, response_routes
from gateway.openai.responses.stored import stored_response_routes
from gateway.openai.scores import score_routes
from gateway.openai.stored_chats import stored_chat_routes
from gateway.openai.tokenizer import tokenizer_routes
from gateway.openapi.routes import openapi_routes
from gateway.processes import Seat
from gateway.routing.aliases import Aliases
from gateway.routing.balancer import Balancer, Settings
from gateway.routing.directory import Directory
from gateway.routing.dispatch import Dispatch
from gateway.routing.hedge import Hedges
from gateway.routing.outliers import Outliers
from gateway.routing.pace import StallLimits
from gateway.routing.quarantine import Quarantine
from gateway.routing.queue import Queue, QueueLimits
from gateway.store.store import Store
from mesh.metrics import GatewayMetrics
from mesh.trace import Spans


def stall_limits(config: GatewayConfig) -> StallLimits:
    """The part of the settings that sessions need."""
    return StallLimits(config.stall_factor, config.stall_floor, config.stall_ceiling)


def connection_limits(config: GatewayConfig) -> ConnectionLimits:
    """The part of the settings that connections need."""
    return ConnectionLimits(config.header_timeout, config.max_header_bytes, config.max_connections_per_address)


def queue_limits(config: GatewayConfig) -> QueueLimits:
    """The part of the settings that the queue needs."""
    return QueueLimits(config.queue_limit, config.queue_timeout, config.worker_ahead, config.queue_patience)


def image_limits(config: GatewayConfig) -> ImageLimits:
    """The part of the settings that images need."""
    hosts = frozenset(host.strip().lower() for host in config.image_hosts.split(",") if host.strip())
    return ImageLimits(
        urls=config.image_urls,
        hosts=hosts,
        private=config.allow_private_images,
        count=config.max_images,
        size=config.max_image_bytes,
        seconds=config.image_timeout,
    )


def stream_times(config: GatewayConfig) -> StreamTimes:
    """The part of the settings that streams need."""
    return StreamTimes(config.stream_keep_alive, config.stream_begin_after)


def response_options(config: GatewayConfig) -> ResponseOptions:
    """The part of the settings that responses need."""
    return ResponseOptions(image_limits(config), config.hosted_tools, stream_times(config))


def make_balancer(config: GatewayConfig, metrics: GatewayMetrics) -> Balancer:
    """What chooses workers."""
    default = Settings(config.policy, config.load_factor, hedge_after=config.hedge_after)
    return Balancer(default, zone=config.zone, prefix_marks=config.prefix_marks, metrics=metrics)


def reasoning_fields(config: GatewayConfig) -> Sequence[str]:
    """The names by which reasoning goes in answers."""
    return ("reasoning_content", "reasoning") if config.reasoning_field == "both" else (config.reasoning_field,)


def make_dispatch(
    config: GatewayConfig, directory: Directory, balancer: Balancer, aliases: Aliases, metrics: GatewayMetrics
) -> Dispatch:
    """What generations need."""
    outliers = Outliers(after=config.eject_after, seconds=config.eject_seconds)
    metrics.workers_spared.set_function(lambda: outliers.spared(directory.sessions()))
    return Dispatch(
        directory=directory,
        queue=Queue(directory, queue_limits(config), metrics),
        aliases=aliases,
        metrics=metrics,
        balancer=balancer,
        quarantine=Quarantine(after=config.quarantine_after, seconds=config.quarantine_seconds),
        outliers=outliers,
        hedges=Hedges(config.hedge_share, metrics),
        max_attempts=config.max_attempts,
        credit=config.credit,
        stall_ceiling=config.stall_ceiling,
        embed_timeout=config.embed_timeout,
        keep_seconds=config.reconnect_grace,
    )


def create_app(
    config: GatewayConfig,
    directory: Directory,
    balancer: Balancer,
    aliases: Aliases,
    metrics: GatewayMetrics,
    store: Store,
    book: Book | None = None,
    seat: Seat | None = None,
    spans: Spans | None = None,
) -> tuple[Quart, Exchanges, list[Callable[[], Coroutine[Any, Any, None]]]]:
    """The application, the exchanges that are under way on it, and what is to run beside it.

    `store` keeps what clients ask for later; `book` has the keys, if requests need one; `seat` is the place among
    several processes.
    """
    app = Quart(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = config.max_body_bytes
    limits = {UPLOAD_PATH: config.max_file_bytes + FORM_BYTES}
    app.request_class = request_with(limits)
    app.config["BODY_TIMEOUT"] = config.body_timeout
    exchanges = Exchanges(
        cast("AsgiApp", app.asgi_app), metrics, limit=config.max_body_bytes, limits=limits, spans=spans
    )
    app.asgi_app = exchanges  # type: ignore[method-assign]  # Quart's own way to add middleware
    dispatch = make_dispatch(config, directory, balancer, aliases, metrics)
    app.register_blueprint(
        chat_routes(dispatch, store, image_limits(config), reasoning_fields(config), stream_times(config))
    )
    for routes in (stored_chat_routes, conversation_routes, conversation_item_routes):
        app.register_blueprint(routes(store))
    guard = None if book is None else Guard(book, config.open_routes, shared_cache=config.share_prefix_cache)
    background = BackgroundResponses(store, dispatch, exchanges, guard, hosted=config.hosted_tools)
    app.register_blueprint(response_routes(dispatch, store, background, response_options(config)))
    app.register_blueprint(stored_response_routes(store, background, keep_alive=config.stream_keep_alive))
    app.register_blueprint(completion_routes(dispatch, stream_times(config)))
    app.register_blueprint(embedding_routes(dispatch))
    app.register_blueprint(score_routes(dispatch))
    app.register_blueprint(classify_routes(dispatch))
    app.register_blueprint(moderation_routes(dispatch, config.moderation_threshold))
    app.register_blueprint(decision_routes(dispatch))
    app.register_blueprint(tokenizer_routes(dispatch))
    app.register_blueprint(message_routes(dispatch, image_limits(config), stream_times(config)))
    runner = _add_batches(config, app, exchanges, store, metrics)
    app.register_blueprint(model_routes(directory, aliases, anthropic_page=model_page, anthropic_one=model_info))
    app.register_blueprint(health_routes(directory, exchanges, metrics, book, seat))
    app.register_blueprint(openapi_routes(keyed=book is not None, open_routes=config.open_routes))
    app.register_error_handler(Exception, partial(_on_error, config))
    app.before_request(_before_request)
    app.after_request(_after_request)
    if config.cors_origins:
        Cors(config.cors_origins).attach(app)
    if guard is not None:
        guard.attach(app)
    return app, exchanges, [store.run, background.run, runner.run]


def _add_batches(
    config: GatewayConfig, app: Quart, exchanges: Exchanges, store: Store, metrics: GatewayMetrics
) -> Runner:
    """The routes of files and batches, and what works on these."""
    contents = Contents(config.files)
    shop = Shop(
        contents,
        caller(cast("AsgiApp", app)),
        Places(config.batch_concurrency),
        config.batch_concurrency,
        config.batch_takeover / 4,
        lambda: exchanges.draining,
        metrics,
    )
    runner = Runner(store, shop, takeover=config.batch_takeover)
    app.register_blueprint(file_routes(store, contents, config.max_file_bytes))
    app.register_blueprint(batch_routes(store, runner))
    return runner


async def _on_error(config: GatewayConfig, error: Exception) -> Response:
    if isinstance(error, NotFound):
        error = NotFound(f"no such route: {request.method} {request.path[:200]}{_meant(request.path)}")
    elif isinstance(error, RequestEntityTooLarge):
        most = config.max_file_bytes if request.path == UPLOAD_PATH else config.max_body_bytes
        error = RequestEntityTooLarge(f"the body must have at most {most} bytes")
    found = current().failed(error)
    return Response(found.body, status=found.status, headers=found.headers)


def _meant(path: str) -> str:
    """The route that there is where a client's base URL has no /v1, or one that the client adds as well."""
    other = path.removeprefix("/v1") if path.startswith("/v1/v1/") else f"/v1{path}"
    there = current_app.url_map.bind("").test(other, method=request.method)
    return f"; is {other} meant? See the client's base URL" if there else ""


async def _before_request() -> None:
    exchange = current()
    rule = request.url_rule
    if rule is not None:
        exchange.route = rule.rule
    deadline = request.headers.get(HEADER)
    if deadline is not None:
        exchange.expire_in(deadline_seconds(deadline))


async def _after_request(response: Response) -> Response:
    """What every answer has, and what its exchange must know of it. A stream ends later by itself."""
    exchange = current()
    exchange.status = response.status_code
    exchange.finished = not exchange.streamed or response.status_code != 200
    response.headers.update(exchange.headers)
    if exchange.trail and exchange.finished:
        response.headers["x-mesh-trace"] = exchange.trail.decode()
    return response
