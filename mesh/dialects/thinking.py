"""Reasoning between two marks at the beginning of an answer."""

from __future__ import annotations

from mesh.dialects.source import Reading, Reasoning, Source


def reasoning(source: Source, begin: str, end: str, *, inside: bool) -> Reading[None]:
    """Report the reasoning, if the answer begins with any, and pass its end. `inside`: the prompt has begun it."""
    if inside:
        source.markup(Reasoning)
        # Some models begin it once more.
        yield from source.skip_space()
        yield from source.literal(begin)
    else:
        start = source.at
        yield from source.skip_space()
        if not (yield from source.literal(begin)):
            source.at = start
            return
        source.markup(Reasoning)
    if (yield from source.copy_until(lambda text: source.put(Reasoning, text), end)):
        source.markup()
