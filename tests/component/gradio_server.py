"""A real Gradio behind a real socket, for tests of what goes past it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import fastapi
import httpx
import uvicorn

from tests.harness import eventually


@asynccontextmanager
async def serving(app: fastapi.FastAPI) -> AsyncGenerator[httpx.AsyncClient]:
    """The application, and a client of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        await eventually(lambda: server.started, within=30)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=20) as client:
            yield client
        server.should_exit = True
        await running
