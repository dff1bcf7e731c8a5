"""The chunks of a streamed answer, read out of bytes."""

from __future__ import annotations

from webui.chunks import Chunks


def test_chunks_are_read_however_the_bytes_are_cut() -> None:
    lines = [
        b'data: {"id":"x","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}',
        b": a comment",
        'data: {"choices":[{"delta":{"content":"wört"}}],"usage":null}'.encode(),
        b'data: {"choices":[{"delta":{"reasoning_content":"hm"},"finish_reason":"stop"}]}',
        b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}',
        b'data: {"error":{"message":"no","type":"server_error","param":null,"code":"worker_lost"}}',
        b"data: [DONE]",
    ]
    data = b"".join(line + b"\n\n" for line in lines)
    for size in (1, 7, 100, len(data)):
        chunks = Chunks()
        found = [chunk for at in range(0, len(data), size) for chunk in chunks.read(data[at : at + size])]
        assert [each.delta.content for chunk in found for each in chunk.choices] == ["", "wört", None]
        assert [each.delta.reasoning_content for chunk in found for each in chunk.choices] == [None, None, "hm"]
        assert found[3].usage is not None
        assert found[3].usage.completion_tokens == 2
        assert found[4].error is not None
        assert found[4].error.code == "worker_lost"
