"""All pages as one ASGI application."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import fastapi
import gradio as gr
from gradio.components.navbar import Navbar

from webui.config import WebConfig
from webui.doors import Doors
from webui.http import Frontier
from webui.leaderboard.live import LiveLeaderboard
from webui.login import SESSION, Login
from webui.pages import about, benchmark, leaderboard, look, shared, talk
from webui.pages.composer import MAX_UPLOAD
from webui.pages.desk import Desk
from webui.samples import SAMPLES, draw_samples, sample_file
from webui.scratch import Scratch
from webui.streams import Streams
from webui.traffic import Traffic, TrafficLimits
from webui.trust.accounts import Accounts

# How often Gradio looks for events, and for progress of them, which no page shows.
_EVENT_SECONDS, _PROGRESS_SECONDS = 0.02, 0.2


def web_app(
    desk: Desk, live: LiveLeaderboard, scratch: Scratch, limits: TrafficLimits, accounts: Accounts | None
) -> fastapi.FastAPI:
    """The application. It gets answers while it runs (ASGI lifespan)."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here needs the hub
    draw_samples(desk.folder)

    @asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncGenerator[None]:
        samples = [sample_file(sample, desk.folder) for sample in SAMPLES]
        sweeping = asyncio.create_task(scratch.keep_sweeping(samples))
        try:
            async with desk.arena.running():
                yield
        finally:
            sweeping.cancel()

    outer = fastapi.FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    outer.add_api_route("/healthz", lambda: "ok")
    config = desk.config
    root = config.root_path.rstrip("/")
    blocks = _blocks(desk, live)
    # The last one is the first to see a request.
    outer.add_middleware(Streams, listeners=desk.listeners)
    outer.add_middleware(Traffic, listeners=desk.listeners, scratch=scratch, limits=limits)
    if accounts is not None:
        outer.add_middleware(Login, accounts=accounts, title=config.title, root=root)
    outer.add_middleware(Doors, pages=[path for path, *_ in blocks.pages])
    outer.add_middleware(Frontier, proxies=config.trusted_proxy, user_header=config.user_header)
    # It says that it does without what we do not ask for.
    warnings.filterwarnings("ignore", "SSR mode is not supported", UserWarning)
    blocks = _blocks(desk, live)
    queue = blocks._queue  # pyright: ignore[reportPrivateUsage]
    # Otherwise it looks a thousand times a second: 4 % of a core while nobody is there.
    queue.sleep_when_free, queue.progress_update_sleep_when_free = _EVENT_SECONDS, _PROGRESS_SECONDS
    return gr.mount_gradio_app(
        outer,
        blocks,
        path="/",
        root_path=root or None,
        theme=look.theme(),
        css_paths=[look.STYLE],
        head=look.HEAD,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        show_error=False,
        max_file_size=MAX_UPLOAD,
        allowed_paths=[str(desk.folder)],
        auth_dependency=_signed_in(config, accounts),
    )


def _blocks(desk: Desk, live: LiveLeaderboard) -> gr.Blocks:
    config = desk.config
    blocks = gr.Blocks(title=config.title, analytics_enabled=False)
    if config.single:
        with blocks:
            gr.Markdown(f"# {config.title}")
            talk.build(desk, blocks, "direct", config.single)
        return blocks
    with blocks:
        _frame(config, "")
        talk.build(desk, blocks, "battle")
    for path, draw in _pages(desk, blocks, live).items():
        with blocks.route(path, f"/{path}", show_in_navbar=False):
            _frame(config, path)
            draw()
    if config.benchmark is not None:
        with blocks.route("benchmark", "/benchmark", show_in_navbar=False):
            _frame(config, "benchmark")
            benchmark.build(config.benchmark, config.benchmark_set)
    return blocks


def _frame(config: WebConfig, here: str) -> None:
    Navbar(visible=False)  # ours is a list of links
    look.frame(config.title, here, benchmark=config.benchmark is not None, login=config.login is not None)


def _pages(desk: Desk, blocks: gr.Blocks, live: LiveLeaderboard) -> dict[str, Callable[[], None]]:
    """The pages beside the first one, by path."""
    return {
        "side-by-side": lambda: talk.build(desk, blocks, "named"),
        "direct": lambda: talk.build(desk, blocks, "direct"),
        "leaderboard": lambda: leaderboard.build(desk, blocks, live),
        "about": lambda: about.build(desk, blocks),
        "shared": lambda: shared.build(desk, blocks),
    }


def _signed_in(config: WebConfig, accounts: Accounts | None) -> Callable[[fastapi.Request], str | None] | None:
    """How to tell who asks, where not everybody may: None of a request is a stranger."""
    header = config.user_header
    if accounts is not None:
        return lambda request: accounts.who(request.cookies.get(SESSION, ""))
    if header is not None:
        return lambda request: request.headers.get(header) or None
    return None
