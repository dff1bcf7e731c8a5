"""How the scripted engine is set up for the load: as options of the engine, and as the worker's flags for the same."""

from __future__ import annotations

from mesh.engine.script import ScriptedOptions

MODEL = "bench"
PROMPT = "Tell me about the sea."
# No stream may come to its end by itself.
_ENDLESS = 1 << 30


def options(streams: int, step: float) -> ScriptedOptions:
    """One token per row every `step` seconds, for so many rows, without end."""
    return ScriptedOptions(
        name=MODEL, tokens=_ENDLESS, context_length=_ENDLESS, step_interval=step, slots=max(64, streams)
    )


def flags(streams: int, step: float) -> list[str]:
    """The flags of mesh-worker that make it run `options(streams, step)`."""
    made = options(streams, step)
    return [
        *("--engine", "scripted", "--model-name", made.name),
        *("--script-tokens", str(made.tokens), "--context-length", str(made.context_length)),
        *("--script-step-ms", f"{made.step_interval * 1e3:g}", "--max-rows", str(made.slots)),
    ]
