"""The table of the tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from training.data.clean import Clean
from training.data.decontaminate import Decontaminate
from training.data.dedup import Dedup
from training.data.extract import FirstRound, Model
from training.data.formats import Formats
from training.data.language import Language
from training.data.quality import Quality
from training.data.redact import Redact
from training.data.sampling import Sample, TrainTest
from training.data.split import Split
from training.data.stats import Stats
from training.data.tool import Tool


@dataclass(frozen=True, kw_only=True)
class Convert(Tool):
    """Write the conversations in another format: --to openai or fastchat, as JSON lines, or an array for *.json."""


@dataclass(frozen=True, kw_only=True)
class Merge(Tool):
    """Write several files as one, in their order."""


TOOLS: Final[Mapping[str, type[Tool]]] = {
    "clean": Clean,
    "language": Language,
    "formats": Formats,
    "quality": Quality,
    "dedup": Dedup,
    "redact": Redact,
    "decontaminate": Decontaminate,
    "split": Split,
    "first-round": FirstRound,
    "model": Model,
    "merge": Merge,
    "sample": Sample,
    "train-test": TrainTest,
    "convert": Convert,
    "stats": Stats,
}
