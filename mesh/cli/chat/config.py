"""The settings of `mesh chat`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from mesh.config import ConfigError, option
from mesh.worker.config import WorkerConfig
from mesh.worker.flags import Flags
from mesh.worker.flags.adapters import AdapterFlags
from mesh.worker.flags.batching import BatchingFlags
from mesh.worker.flags.dialect import DialectFlags
from mesh.worker.flags.model import LoadFlags, ModelFlags
from mesh.worker.flags.template import TemplateFlags


@dataclass(frozen=True)
class TalkFlags(Flags):
    """Whom to talk with, and how."""

    message: tuple[str, ...] = option(
        (),
        "One message to have answered, instead of a conversation; - stands for all of standard input.",
        positional=True,
    )
    url: str = option("http://127.0.0.1:8000", "Where the gateway is.")
    api_key: str | None = option(None, "Key for the gateway; better given by the environment.", secret=True)
    model: str | None = option(None, "Which model. Default: the first one that is served.")
    system: str | None = option(None, "System message at the head of the conversation.")
    history: bool = option(True, "Keep what was said. Without, each message is answered by itself.")
    temperature: float | None = option(None, "The same as --set temperature=...", low=0)
    max_tokens: int | None = option(None, "The same as --set max_tokens=...", low=1)
    set: tuple[str, ...] = option(
        (), "A parameter of the answers as name=value, such as top_p=0.9; may be repeated. /set in a chat lists them."
    )
    style: Literal["auto", "rich", "simple", "programmatic"] = option(
        "auto",
        "How answers are shown: rich (Markdown), simple (as they are) or programmatic (a JSON object a line). "
        "auto: rich on a terminal, else simple.",
    )


@dataclass(frozen=True)
class LocalFlags(Flags):
    """With --model-path the model runs in this process, with no gateway; its flags are those of mesh-worker."""

    model_name: tuple[str, ...] = option(
        (), "Name of the model, repeated like --model-path in the same order. Default: the last part of the path."
    )
    context_length: int | None = option(
        None, "Most tokens of prompt and output together. Default: the model's own.", low=1
    )


@dataclass(frozen=True)
class ChatConfig(
    AdapterFlags, BatchingFlags, DialectFlags, LoadFlags, TemplateFlags, ModelFlags, LocalFlags, TalkFlags
):
    """Talk with a model in the terminal; or have one message answered, or each line of standard input."""

    def __post_init__(self) -> None:
        talk = {spec.name for spec in fields(TalkFlags)}
        local = bool(self.model_path)
        for spec in fields(self):
            if getattr(self, spec.name) == spec.default:
                continue
            flag = "--" + spec.name.replace("_", "-")
            if local and spec.name in ("url", "api_key"):
                raise ConfigError(f"{flag} has no effect with --model-path, which needs no gateway")
            if not local and spec.name not in talk:
                raise ConfigError(f"{flag} has no effect without --model-path: a gateway's workers have their own")
        super().__post_init__()

    def worker(self) -> WorkerConfig:
        """The same for a worker, of which only the engine is made. Raises ConfigError."""
        given: dict[str, Any] = {
            spec.name: getattr(self, spec.name) for spec in fields(WorkerConfig) if hasattr(self, spec.name)
        }
        return WorkerConfig(**given, register=False)
