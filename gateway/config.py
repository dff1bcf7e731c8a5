"""Every setting of the gateway. Each field is a flag and an environment variable (see mesh/config.py)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mesh.config import option
from mesh.policy import MAX_HEDGE_AFTER, MAX_LOAD_FACTOR, PolicyName


@dataclass(frozen=True)
class GatewayConfig:
    """Serve the OpenAI REST API and spread the requests over the mesh's workers."""

    host: str = option("127.0.0.1", "Address of the HTTP server.")
    port: int = option(8000, "Port of the HTTP server; 0 picks a free one.", low=0, high=65535)
    processes: int = option(
        1, "Processes that serve the port together, for as many cores; each is a gateway of its own.", low=1, high=256
    )

    etcd: str | None = option(
        None, "URL(s) of etcd, comma separated. Without it the gateway serves an embedded registry itself."
    )
    etcd_ca: Path | None = option(None, "PEM file of the authority that signed etcd's certificate.")
    etcd_cert: Path | None = option(None, "PEM file of the certificate to present to etcd.")
    etcd_key: Path | None = option(None, "PEM file of that certificate's key.")
    etcd_user: str | None = option(None, "User name at etcd.")
    etcd_password: str | None = option(None, "Password at etcd; better given by the environment.", secret=True)
    registry_host: str = option("127.0.0.1", "Address of the embedded registry.")
    registry_port: int = option(12379, "Port of the embedded registry; 0 picks a free one.", low=0, high=65535)

    tls_cert: Path | None = option(None, "PEM file of the HTTP server's certificate; it may be replaced at any time.")
    tls_key: Path | None = option(None, "PEM file of its key.")
    insecure_public: bool = option(
        False, "Listen beyond this machine without API keys or TLS, as behind a proxy that sees to both."
    )
    require_keys: bool = option(
        False, "Answer only requests that bring an API key; `mesh ctl keys create` makes one, kept in etcd."
    )
    keys_file: Path | None = option(
        None, "Keep the keys in this file instead, for one machine without etcd; implies --require-keys."
    )
    open_routes: tuple[str, ...] = option(
        ("/healthz", "/readyz", "/docs", "/openapi.json"),
        "Path that needs no key, repeated; /metrics otherwise needs one made with --metrics.",
    )
    cors_origins: tuple[str, ...] = option(
        (),
        "Origin of web pages that may use the gateway from a browser, such as https://chat.example.org, repeated; "
        "* is every origin.",
    )
    share_prefix_cache: bool = option(
        False,
        "Let requests of different keys share cached prefixes: faster where prompts begin alike, but the time to the "
        "first token then tells what others have asked.",
    )

    worker_ca: Path | None = option(None, "PEM file of the authority that signed the workers' certificates.")
    worker_cert: Path | None = option(None, "PEM file of the certificate to present to workers.")
    worker_key: Path | None = option(None, "PEM file of that certificate's key.")
    join_token: str | None = option(
        None,
        "Secret that the gateways and workers of a mesh share, at least 16 characters; better given by the "
        "environment. Workers without it are left alone.",
        secret=True,
    )

    policy: PolicyName = option(
        "prefix_aware",
        "Which worker takes a request: prefix_aware (the one that is likely to have the beginning of the prompt in its "
        "cache, unless it is too busy), least_loaded, round_robin or random; `mesh ctl routes` sets it for a model.",
    )
    load_factor: float = option(
        1.25,
        "With prefix_aware: a worker is too busy above so many times the mean load.",
        low=1,
        high=MAX_LOAD_FACTOR,
    )
    hedge_after: float = option(
        0.0,
        "Seconds without a first token after which a request is given to a second worker too, if one has a free slot; "
        "the first to answer goes on, the other is cancelled. 0 is never; `mesh ctl routes` sets it for a model.",
        low=0,
        high=MAX_HEDGE_AFTER,
    )
    hedge_share: float = option(0.05, "Largest share of a model's requests that may be given to two.", low=0, high=1)
    prefix_marks: int = option(
        100_000, "Hashes of prompts' beginnings to remember, with who has seen them; about 250 bytes each.", low=0
    )
    zone: str = option("", "Failure domain of this gateway: workers of the same zone go first while they have room.")
    grace_period: float = option(
        60.0, "Seconds that a worker stays in use after it vanished from the registry, while it answers.", low=0
    )

    max_body_bytes: int = option(10 * 1024 * 1024, "Largest request body.", low=1024, high=48 * 1024 * 1024)
    body_timeout: float = option(60.0, "Seconds that a client may take to send its body.", low=0.1)
    header_timeout: float = option(
        10.0, "Seconds that a client may take to send the headers of a request, counted from its first byte.", low=0.1
    )
    max_header_bytes: int = option(32 * 1024, "Most bytes of a request's headers in all.", low=1024, high=1024 * 1024)
    send_timeout: float = option(
        300.0,
        "Seconds that a client may take nothing of what is sent to it; then its connection is cut and its rows end. "
        "Kept by the kernel, on Linux only; 0 is no limit.",
        low=0,
        high=1_000_000,
    )
    idle_timeout: float = option(75.0, "Seconds that a connection may wait for its next request.", low=0.1)
    max_connections_per_address: int = option(
        0,
        "Most connections at a time from one address, to each process; 0 is no limit. Behind a proxy all are its own.",
        low=0,
    )
    queue_timeout: float = option(
        30.0, "Seconds that a request waits for a worker that has room, or for any worker at all.", low=0
    )
    queue_limit: int = option(1000, "Most new requests of a model that wait at a time; more are refused.", low=0)
    queue_patience: float = option(
        5.0,
        "Seconds after which requests of a later priority get a turn before earlier ones, at most every other turn.",
        low=0,
    )
    worker_ahead: int = option(
        2,
        "Rows that may wait on a worker beyond its slots, so that it is never idle; what is more waits in the gateway, "
        "where tenants are served fairly.",
        low=0,
    )
    credit: int = option(
        256,
        "Tokens that a worker may be ahead of a slow reader of a stream before its rows are paused; "
        "at least 16 for each choice.",
        low=1,
    )

    stream_keep_alive: float = option(
        15.0,
        "Seconds of silence, such as while a long prompt is read, after which a stream gets a comment, so that proxies "
        "do not take its connection for dead; 0 is never.",
        low=0,
    )
    stream_begin_after: float = option(
        45.0,
        "Seconds after which a stream that no worker has begun yet, as where requests wait long, begins with such a "
        "comment; an error is then an event of it. Until then an error is an answer with its own status. 0 is never.",
        low=0,
    )
    reasoning_field: Literal["both", "reasoning_content", "reasoning"] = option(
        "both",
        "Name of the reasoning in chat answers: reasoning_content (as of DeepSeek and SGLang), reasoning (as of vLLM), "
        "or both.",
    )

    store: str = option(
        "",
        "Where responses, conversations and stored chat completions are kept: a file of SQLite, a URL of PostgreSQL "
        "(postgresql://user@host/name), or none. Default: inference-mesh/gateway.db in the user's state directory "
        "(~/.local/state). Gateways that share it serve each other's.",
    )
    store_retention: float = option(
        30.0, "Days after which what is kept there is removed, counted from its last change; 0 is never.", low=0
    )

    files: str = option(
        "",
        "Where the contents of files are kept: a directory, or a URL of fsspec such as s3://bucket/folder (with s3fs "
        "installed). Default: inference-mesh/files in the user's state directory. Gateways with one store share it.",
    )
    max_file_bytes: int = option(100 * 1024 * 1024, "Largest file that is uploaded.", low=1024, high=1024 * 1024 * 1024)
    batch_concurrency: int = option(
        16, "Most requests of batches at a time on each gateway; they go behind all others.", low=1, high=1024
    )
    batch_takeover: float = option(
        15.0,
        "Seconds for which nothing must be heard of the gateway that works on a batch before another one goes on.",
        low=0.5,
    )

    hosted_tools: Literal["refuse", "ignore-search", "ignore"] = option(
        "ignore-search",
        "What becomes of tools of /v1/responses that OpenAI runs itself: ignore leaves them out, and a header "
        "(x-mesh-tools-left-out) says so; ignore-search does with web_search alone, which Codex always offers, and the "
        "request is refused for others; refuse, for all.",
    )

    moderation_threshold: float = option(0.5, "Score from which /v1/moderations flags a category.", low=0.01, high=1)

    image_urls: bool = option(True, "Fetch images that chats name by http or https URL; data URLs are always taken.")
    image_hosts: str = option("", "Hosts that images are fetched from, comma separated; empty allows all.")
    allow_private_images: bool = option(
        False, "Fetch images from private, loopback and link-local addresses too: clients then see what is inside."
    )
    max_images: int = option(16, "Most images of a request.", low=1, high=32)
    max_image_bytes: int = option(8 * 1024 * 1024, "Largest image file.", low=1024, high=32 * 1024 * 1024)
    image_timeout: float = option(10.0, "Seconds within which the images of a request must be there.", low=0.1)

    max_attempts: int = option(
        4, "Most attempts of a request beyond the first one; those because of draining do not count.", low=0
    )
    eject_after: int = option(
        5, "Failures in a row after which a worker is spared while there are others; 0 is never.", low=0
    )
    eject_seconds: float = option(
        10.0,
        "Seconds that it is spared at first, twice as long each time, and five minutes at most.",
        low=0.1,
        high=300,
    )
    quarantine_after: int = option(
        2,
        "Workers that may die with a request before it is refused instead of given to another one; 0 is no limit.",
        low=0,
    )
    quarantine_seconds: float = option(
        600.0, "Seconds that the content of such a request is refused, whoever sends it.", low=0
    )
    stall_factor: float = option(
        20.0, "A worker that stands still for so many of its own mean step times is taken for frozen.", low=1
    )
    stall_floor: float = option(3.0, "Shortest standstill, in seconds, that counts as frozen.", low=0.1)
    stall_ceiling: float = option(
        30.0,
        "Longest standstill, in seconds, of a worker whose pace is not known or when there is no other worker; "
        "then the request fails.",
        low=0.1,
    )
    reconnect_grace: float = option(
        30.0,
        "Seconds that a worker keeps an answer whose client was lost and said that it may come back "
        "(x-mesh-reconnect: 1); 0 keeps none, and what the client lacks is computed again.",
        low=0,
        high=3600,
    )
    embed_timeout: float = option(
        300.0, "Seconds that a worker may take to embed the inputs of one request; then the request fails.", low=0.1
    )
    drain_timeout: float = option(
        30.0, "Seconds that live requests have to end after SIGTERM or SIGINT; then they fail.", low=0
    )
    otlp_endpoint: str | None = option(
        None, "URL of an OpenTelemetry collector (OTLP over gRPC) that takes traces, such as http://127.0.0.1:4317."
    )

    @property
    def keyed(self) -> bool:
        """Whether requests need a key."""
        return self.require_keys or self.keys_file is not None
