"""Of a worker's message, what goes to which stream. The hot path."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from gateway.routing.events import Token
from gateway.routing.stream import Host, Stream
from mesh.errors import ErrorKind, MeshError
from mesh.v1 import inference_pb2 as pb

Place = TypeVar("Place", bound=Host)


def sort(message: pb.SessionResponse, find: Callable[[int], Stream[Place] | None]) -> list[Stream[Place]]:
    """Put what has come on the lists of its streams; returns those that had nothing. What is of no stream was under
    way when that was cancelled. Raises MeshError."""
    touched: list[Stream[Place]] = []
    if message.HasField("tokens"):
        for stream_id, position, token_id, text in _rows(message.tokens):
            stream = find(stream_id)
            if stream is not None:
                if not stream.events:
                    touched.append(stream)
                stream.events.append(Token(position, token_id, text))
    for event in message.events:
        stream = find(event.stream_id)
        if stream is not None:
            if not stream.events:
                touched.append(stream)
            stream.events.append(event)
    return touched


def _rows(tokens: pb.Tokens) -> Iterable[tuple[int, int, int, str]]:
    """Stream, position, token id and text of each token. Raises MeshError."""
    count = len(tokens.stream_ids)
    columns = (tokens.positions, tokens.token_ids, tokens.texts)
    if any(len(column) != count for column in columns):
        raise MeshError(ErrorKind.PROTOCOL_ERROR, f"the worker sent columns of other lengths than {count}")
    return zip(tokens.stream_ids, *columns, strict=True)
