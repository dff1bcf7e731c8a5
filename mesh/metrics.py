"""Every metric of the mesh, named once. Durations are in seconds, sizes in bytes or tokens.

Each process makes one object for its role and exposes `registry` on /metrics.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_LATENCY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)
# Labels of the metrics that have OpenTelemetry's names for servers of generative models, as Prometheus spells them.
_GEN_AI = ["gen_ai_operation_name", "gen_ai_request_model"]
_TOKEN_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class GatewayMetrics:
    """What a gateway counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter(
            "mesh_gateway_requests",
            "Requests by route, model and HTTP status.",
            ["route", "model", "status"],
            registry=r,
        )
        self.active = Gauge("mesh_gateway_active_requests", "Requests being answered.", registry=r)
        self.duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From request to last byte, of requests that asked a model; error_type is empty for those that succeeded.",
            [*_GEN_AI, "error_type"],
            buckets=_LATENCY,
            registry=r,
        )
        self.ttft = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From request to first token.",
            _GEN_AI,
            buckets=_LATENCY,
            registry=r,
        )
        self.tpot = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Mean time between tokens of a request.",
            _GEN_AI,
            buckets=_TOKEN_LATENCY,
            registry=r,
        )
        self.tokens = Histogram(
            "gen_ai_client_token_usage",
            "Tokens of a request, of its prompt (input) or its answer (output).",
            [*_GEN_AI, "gen_ai_token_type"],
            buckets=_TOKENS,
            registry=r,
        )
        self.cached_tokens = Counter(
            "mesh_gateway_cached_tokens",
            "Prompt tokens that workers found in their prefix cache.",
            ["model"],
            registry=r,
        )
        self.attempts = Counter(
            "mesh_gateway_attempts", "Attempts on workers by outcome.", ["model", "outcome"], registry=r
        )
        self.resumes = Counter(
            "mesh_gateway_resumes",
            "Streams continued on another worker by cause.",
            ["model", "cause"],
            registry=r,
        )
        self.alias_requests = Counter(
            "mesh_gateway_alias_requests",
            "Requests for a name that stands for models, by the model that answers and how it was found: named, split "
            "or fallback.",
            ["alias", "model", "how"],
            registry=r,
        )
        self.shadows = Counter(
            "mesh_gateway_shadows",
            "Copies of requests for another model: begun, or left out for no_worker or too_many at a time. What became "
            "of them has the gen_ai_operation_name shadow.",
            ["alias", "model", "outcome"],
            registry=r,
        )
        self.hedges = Counter(
            "mesh_gateway_hedges",
            "Requests whose first token was late, by outcome: a second worker won or lost, or none was asked, as no "
            "other had a free slot (no_place) or too many had been (over_budget).",
            ["model", "outcome"],
            registry=r,
        )
        self.prefix_picks = Counter(
            "mesh_gateway_prefix_picks",
            "Workers chosen by prefix: known (it has seen the prompt's beginning), hashed, or busy (a better one was).",
            ["model", "place"],
            registry=r,
        )
        self.prefix_tokens = Counter(
            "mesh_gateway_prefix_tokens",
            "Tokens of prompts placed by prefix: of the prompt, predicted to be cached, cached in truth, and the "
            "difference of these two in either direction (error).",
            ["model", "type"],
            registry=r,
        )
        self.prefix_marks = Gauge("mesh_gateway_prefix_marks", "Marks in the table of prefixes.", registry=r)
        self.reconnects = Counter(
            "mesh_gateway_reconnects",
            "Clients that came back for the rest of an answer, by how it goes on: kept, or computed again.",
            ["model", "how"],
            registry=r,
        )
        self.batches = Counter(
            "mesh_gateway_batches",
            "Batches that have ended on this gateway: completed, failed, expired or cancelled.",
            ["endpoint", "status"],
            registry=r,
        )
        self.batch_requests = Counter(
            "mesh_gateway_batch_requests",
            "Requests of batches that this gateway has an answer to: done, or failed.",
            ["endpoint", "outcome"],
            registry=r,
        )
        self.queue_length = Gauge(
            "mesh_gateway_queue_requests", "Requests that wait for a worker with room.", ["model"], registry=r
        )
        self.queue_wait = Histogram(
            "mesh_gateway_queue_wait_seconds",
            "From a request, or the loss of its worker, until a worker was asked.",
            ["model"],
            buckets=(0.0, *_LATENCY),
            registry=r,
        )
        self.queue_refused = Counter(
            "mesh_gateway_queue_refused",
            "Requests refused or given up in the queue, by reason: full, timeout, deadline.",
            ["model", "reason"],
            registry=r,
        )
        self.workers = Gauge("mesh_gateway_workers", "Workers by state.", ["state"], registry=r)
        self.workers_spared = Gauge(
            "mesh_gateway_workers_spared",
            "Workers that failed so often in a row that they get one request now and then.",
            registry=r,
        )
        self.session_messages = Counter(
            "mesh_gateway_session_messages", "Session messages received that carry events.", registry=r
        )
        self.registry_connected = Gauge(
            "mesh_gateway_registry_connected", "Whether the view of the registry is live.", registry=r
        )
        self.registry_age = Gauge(
            "mesh_gateway_registry_age_seconds",
            "Seconds since the view of the registry was last live: 0 while it is.",
            registry=r,
        )


class WorkerMetrics:
    """What a worker counts. The engine's own counters are added by a collector over Engine.stats()."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.streams = Counter("mesh_worker_streams", "Streams ended, by outcome.", ["outcome"], registry=r)
        self.live_streams = Gauge("mesh_worker_live_streams", "Streams being served.", registry=r)
        self.kept_streams = Gauge(
            "mesh_worker_kept_streams", "Streams that a client can take over, live or ended.", registry=r
        )
        self.sessions = Gauge("mesh_worker_sessions", "Open sessions.", registry=r)
        self.session_messages = Counter(
            "mesh_worker_session_messages", "Session messages sent that carry events.", registry=r
        )
        self.registered = Gauge("mesh_worker_registered", "Whether the registry holds this worker.", registry=r)
