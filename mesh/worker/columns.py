"""The new tokens of a message of a session, in columns: see `Tokens` in inference.proto."""

from __future__ import annotations

from mesh.engine.base import Delta
from mesh.v1 import inference_pb2 as pb


class Columns:
    """Those of one message. They are held here, since to ask the message for one costs more than to write into it."""

    __slots__ = ("_positions", "_stream_ids", "_texts", "_token_ids")

    def __init__(self, message: pb.SessionResponse) -> None:
        tokens = message.tokens
        self._stream_ids, self._token_ids = tokens.stream_ids, tokens.token_ids
        self._positions, self._texts = tokens.positions, tokens.texts

    def add(self, stream_id: int, event: Delta) -> bool:
        """Write new tokens, if these are told in columns. Raises what a field raises, and has then written nothing."""
        position, token_ids = event.position, event.token_ids
        if event.choice or event.logprobs is not None or position is None or len(token_ids) != 1:
            return False
        count = len(self._stream_ids)
        try:
            self._texts.append(event.text)
            self._token_ids.append(token_ids[0])
            self._positions.append(position)
            self._stream_ids.append(stream_id)
        except BaseException:
            for column in (self._texts, self._token_ids, self._positions):
                del column[count:]
            raise
        return True

    def drop(self, stream_id: int) -> None:
        """Take out those of one stream."""
        if stream_id not in self._stream_ids:
            return
        rows = zip(self._stream_ids, self._token_ids, self._positions, self._texts, strict=True)
        kept = [row for row in rows if row[0] != stream_id]
        for column in (self._stream_ids, self._token_ids, self._positions, self._texts):
            del column[:]
        for each, token_id, position, text in kept:
            self._stream_ids.append(each)
            self._token_ids.append(token_id)
            self._positions.append(position)
            self._texts.append(text)
