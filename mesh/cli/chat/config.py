"""The settings of `mesh chat`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mesh.config import option


@dataclass(frozen=True)
class ChatConfig:
    """Talk with a model in the terminal; or have one message answered, or each line of standard input."""

    message: tuple[str, ...] = option(
        (),
        "One message to have answered, instead of a conversation; - stands for all of standard input.",
        positional=True,
    )
    url: str = option("http://127.0.0.1:8000", "Where the gateway is.")
    api_key: str | None = option(None, "Key for the gateway; better given by the environment.", secret=True)
    model: str | None = option(None, "Which model. Default: the first one that is served.")
    system: str | None = option(None, "System message at the head of the conversation.")
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
