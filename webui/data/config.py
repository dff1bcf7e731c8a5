"""Settings of the commands of `mesh arena`; `commands.py` has what they do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from mesh.config import ConfigError, option
from webui.config import default_store

ENV_PREFIX: Final = "MESH_ARENA_"
_STORE_HELP: Final = "The arena's store: a file of SQLite, or postgresql://... Default: the one of mesh-webui."


@dataclass(frozen=True)
class ExportConfig:
    """Write votes to a file: as FastChat's battles or log lines, as Parquet, or as preferences for training."""

    out: Path = option(help="The file; one that exists is replaced.", positional=True)
    format: Literal["battles", "log", "parquet", "preferences"] | None = option(
        None,
        "What to write: battles (a JSON list), log (a line of JSON each), parquet or preferences. "
        "Default: parquet for *.parquet, log for *.jsonl, else battles.",
    )
    texts: bool = option(False, "Parquet: with prompts and answers. The other formats always have them.")
    for_training: bool = option(False, "The same as --format preferences: prompt, chosen and rejected as messages.")
    store: str = option(default_store(), _STORE_HELP, metavar="FILE|URL")

    @property
    def form(self) -> str:
        """The format, whichever flag says it, or the file's name."""
        if self.for_training:
            return "preferences"
        return self.format or {".parquet": "parquet", ".jsonl": "log"}.get(self.out.suffix, "battles")


@dataclass(frozen=True)
class ImportConfig:
    """Take in votes of FastChat: its conversation logs (lines of JSON) or cleaned battles (one JSON list)."""

    file: Path = option(help="The file.", positional=True)
    store: str = option(default_store(), _STORE_HELP, metavar="FILE|URL")


@dataclass(frozen=True)
class StatsConfig:
    """Count votes by model, category and mark, and print the leaderboard."""

    store: str = option(default_store(), _STORE_HELP, metavar="FILE|URL")
    category: str = option("overall", "Which board to print.")
    anchor: str | None = option(None, "Model that holds the scale, and its score.", metavar="MODEL=SCORE")


@dataclass(frozen=True)
class ReportConfig:
    """Write the leaderboard as one HTML file that needs no server and makes no request."""

    out: Path = option(help="The file; one that exists is replaced.", positional=True)
    store: str = option(default_store(), _STORE_HELP, metavar="FILE|URL")
    title: str = option("Arena leaderboard", "Its title.")
    intervals: Literal["sandwich", "bootstrap"] = option("sandwich", "How the intervals are made.")
    rounds: int = option(100, "Resamples of the bootstrap.", low=10)
    seed: int = option(0, "Seed of the bootstrap.", low=0)
    anchor: str | None = option(None, "Model that holds the scale, and its score.", metavar="MODEL=SCORE")
    minimum_votes: int = option(0, "Votes that a model needs to be ranked.", low=0)


@dataclass(frozen=True)
class AuditConfig:
    """Look for voters whose votes are no opinions, and leave their votes out of the ratings if told to."""

    store: str = option(default_store(), _STORE_HELP, metavar="FILE|URL")
    alpha: float = option(0.01, "How many honest voters may be suspected, as a part of all.", low=0, high=1)
    exclude: bool = option(False, "Leave out the votes of those who are found; they stay in the store.")
    seed: int = option(0, "Seed of the test.", low=0)


@dataclass(frozen=True)
class LabelConfig:
    """Have a model of the gateway say which votes are about hard prompts, mathematics, writing or instructions."""

    model: str = option(help="The model that judges.")
    gateway: str = option("http://127.0.0.1:8000", "URL of the gateway.", metavar="URL")
    api_key: str = option("none", "API key for the gateway.", secret=True)
    store: str = option(default_store(), _STORE_HELP, metavar="FILE|URL")
    limit: int = option(1000, "Most votes to look at in this run; the next one goes on.", low=1)


@dataclass(frozen=True)
class ForgetConfig:
    """Delete all that one voter left: battles, answers, votes, pictures."""

    voter: str = option(
        help="The voter's hash, as the page About tells it to them, and as exports have it.", positional=True
    )
    store: str = option(default_store(), _STORE_HELP, metavar="FILE|URL")


COMMANDS: Final[dict[str, type[Any]]] = {
    "export": ExportConfig,
    "import": ImportConfig,
    "stats": StatsConfig,
    "report": ReportConfig,
    "audit": AuditConfig,
    "label": LabelConfig,
    "forget": ForgetConfig,
}


def anchor_of(text: str | None) -> tuple[str, float] | None:
    """`MODEL=SCORE` as a name and a number. Raises ConfigError."""
    if text is None:
        return None
    name, _, score = text.rpartition("=")
    try:
        return (name, float(score)) if name else _not_an_anchor(text)
    except ValueError:
        return _not_an_anchor(text)


def _not_an_anchor(text: str) -> tuple[str, float]:
    raise ConfigError(f"--anchor must be MODEL=SCORE, not '{text}'")
