"""The new tokens of a session's message, in columns or as events: the same either way."""

from __future__ import annotations

from mesh.v1 import inference_pb2 as pb


def to_columns(message: pb.SessionResponse) -> None:
    """Put all deltas into columns that may be there: those that stand behind no other event of their stream."""
    events = list(message.events)
    del message.events[:]
    behind: set[int] = set()
    for event in events:
        delta = event.delta
        fits = event.HasField("delta") and len(delta.token_ids) == 1 and not delta.choice and not delta.logprobs
        if fits and delta.HasField("position") and event.stream_id not in behind:
            message.tokens.stream_ids.append(event.stream_id)
            message.tokens.token_ids.append(delta.token_ids[0])
            message.tokens.positions.append(delta.position)
            message.tokens.texts.append(delta.text)
        else:
            behind.add(event.stream_id)
            message.events.append(event)


def as_events(message: pb.SessionResponse) -> list[pb.StreamEvent]:
    """All that it tells of streams, in order."""
    tokens = message.tokens
    rows = zip(tokens.stream_ids, tokens.token_ids, tokens.positions, tokens.texts, strict=True)
    found = [
        pb.StreamEvent(stream_id=stream_id, delta=pb.Delta(token_ids=[token_id], position=position, text=text))
        for stream_id, token_id, position, text in rows
    ]
    return found + list(message.events)
