"""Listening sockets."""

from __future__ import annotations

import contextlib
import socket
import sys

from mesh.errors import invalid

_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises MeshError with one sentence if there can be none."""
    return _listen(host, port, shared=False)


def listen_together(host: str, port: int, count: int) -> list[socket.socket]:
    """So many listening sockets on one port, among which the kernel spreads the connections (Linux)."""
    # Others of the same user may share a port, too: a port that is taken is found out without sharing.
    with contextlib.closing(listen(host, port)) as first:
        port = first.getsockname()[1]
    return [_listen(host, port, shared=True) for _ in range(count)]


def _listen(host: str, port: int, *, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG, reuse_port=shared)
    except OSError as error:
        raise invalid("port", f"cannot listen on {host}:{port}: {error.strerror or error}") from None


def limit_sends(sock: socket.socket, seconds: float) -> None:
    """Let the kernel cut each connection of a listening socket whose peer takes nothing for so long of what is there
    for it, whether it is gone or does not read; 0 is no limit. On Linux only."""
    if seconds and sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(seconds * 1000)))
