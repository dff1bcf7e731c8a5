"""Flags of the scripted engine."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.config import option
from mesh.worker.flags import Flags


@dataclass(frozen=True)
class ScriptedFlags(Flags):
    """What the scripted engine answers, how fast, and how it fails."""

    engines = frozenset({"scripted"})

    script_text: str = option(
        "words",
        "Scripted answers: words (made up), echo (the last message), or the path of a text, of several with lines of % "
        "between them, of which the prompt picks one, or of a .json file with an object of answers by what the last "
        "message contains.",
    )
    script_tokens: int = option(64, "Scripted: tokens of a made-up answer.", low=1)
    script_step_ms: float = option(0.0, "Scripted: milliseconds per step; 0 is as fast as possible.", low=0)
    script_prefill_ms: float = option(0.0, "Scripted: milliseconds before the first token.", low=0)
    script_jitter: float = option(0.0, "Scripted: by which share of it a step may be shorter or longer.", low=0, high=1)
    script_jitter_seed: int = option(0, "Scripted: seed of the jitter.")
    script_embedding_size: int = option(64, "Scripted: length of embedding vectors.", low=1)
    script_vision: bool = option(False, "Scripted: take images too; they change the answer as words do.")
    script_refuse: bool = option(False, "Scripted fault: refuse every request as overloaded.")
    script_fail_after: int | None = option(None, "Scripted fault: tokens after which a request breaks.", low=0)
    script_stall_after: int | None = option(None, "Scripted fault: tokens after which a row gets no more.", low=0)
    script_crash_after: int | None = option(None, "Scripted fault: tokens after which the process ends.", low=0)
