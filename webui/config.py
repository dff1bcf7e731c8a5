"""Settings of the web pages."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mesh.config import ConfigError, option


@dataclass(frozen=True)
class WebConfig:
    """Serve the arena: battles, chats and the leaderboard, as web pages."""

    gateway: str = option("http://127.0.0.1:8000", "URL of the gateway.", metavar="URL")
    api_key: str = option("none", "API key for the gateway.", secret=True)
    store: str | None = option(
        None,
        "Where votes and conversations are kept: a file of SQLite, or postgresql://... Default: arena.sqlite3 in this "
        "user's data folder.",
        metavar="FILE|URL",
    )
    host: str = option("127.0.0.1", "Address of the web server.")
    port: int = option(7860, "Port of the web server; 0 picks a free one.", low=0, high=65535)
    root_path: str = option(
        "", "Path under which a proxy shows the pages, such as /arena; the proxy hands requests on without it."
    )
    title: str = option("Arena", "What the pages call themselves.")
    single: str | None = option(None, "Serve one page only: a chat with this model.", metavar="MODEL")
    temperature: float = option(0.7, "Temperature of battles, and where chats begin.", low=0, high=2)
    top_p: float = option(1.0, "Nucleus of battles, and where chats begin.", low=0, high=1)
    max_tokens: int = option(1024, "Most tokens of an answer, in battles too.", low=1)
    leaderboard_interval: float = option(
        15.0, "Most seconds until the leaderboard counts votes that another web server has taken.", low=0.1
    )
    cards: Path | None = option(
        None, "JSON file on models: a list of objects with name, organization, license, link, description."
    )
    rules: Path | None = option(None, "Markdown file with your own rules, shown on the page About.")
    terms: Path | None = option(
        None,
        "Markdown file with terms: visitors agree before their first prompt, and anew when the text is another one "
        "at the next start.",
    )
    prompts_per_minute: float = option(
        20, "Prompts of one visitor a minute; of one address five times as many.", low=0.1
    )
    votes_per_day: int = option(200, "Votes of one visitor a day; of one address five times as many.", low=1)
    uploads_per_hour: int = option(
        60, "Images that one visitor may upload an hour; of one address five times as many.", low=1
    )
    upload_mib_per_hour: int = option(
        100, "MiB of images of one visitor an hour; of one address five times as many.", low=11
    )
    upload_space: int = option(
        1024, "MiB on the disk for images that are being shown or not sent yet; each is deleted after an hour.", low=11
    )
    unwanted_words: Path | None = option(
        None, "File with a word or phrase on each line: prompts with one are refused, answers with one marked."
    )
    moderation: str | None = option(
        None,
        "Model that judges prompts and answers by /v1/moderations of the gateway, or of --moderation-url.",
        metavar="MODEL",
    )
    moderation_url: str | None = option(
        None, "Another OpenAI-compatible endpoint for that, such as https://api.openai.com/v1.", metavar="URL"
    )
    moderation_key: str = option("none", "API key for that endpoint.", secret=True)
    boost: tuple[str, ...] = option(
        (), "Draw a model more or less often, such as new-model=3; may be repeated.", metavar="MODEL=FACTOR"
    )
    outage: tuple[str, ...] = option((), "Model that is not drawn for battles; may be repeated.", metavar="MODEL")
    sampling_floor: float = option(
        0.1, "Part of battles whose pair is drawn evenly, the others where votes say most.", low=0.01, high=1
    )
    login: Path | None = option(None, "File with a NAME:PASSWORD on each line: only they may enter.")
    user_header: str | None = option(
        None, "Header in which a proxy tells who has signed in (OIDC); without it nobody enters. See --trusted-proxy."
    )
    trusted_proxy: tuple[str, ...] = option(
        (), "Address of a proxy whose X-Forwarded-For and --user-header are believed; may be repeated."
    )
    benchmark: Path | None = option(
        None, "Folder of a run of `mesh mtbench`, shown as a page of its own.", metavar="FOLDER"
    )
    benchmark_set: str = option("mesh-mini", "The run's questions: --bench of `mesh mtbench`.")

    def __post_init__(self) -> None:
        if self.login and self.user_header:
            raise ConfigError("--login and --user-header exclude each other")
        if self.root_path and not (self.root_path.startswith("/") and self.root_path.strip("/")):
            raise ConfigError(f"--root-path must be a path such as /arena, not {self.root_path}")
        if self.user_header and not self.trusted_proxy:
            raise ConfigError("--user-header needs --trusted-proxy: anybody could send the header otherwise")
        if self.unwanted_words and self.moderation:
            raise ConfigError("--unwanted-words and --moderation exclude each other")
        if self.moderation_url and not self.moderation:
            raise ConfigError("--moderation-url needs --moderation MODEL")
        _ = self.boosts
        for flag, path in (
            ("--cards", self.cards),
            ("--rules", self.rules),
            ("--terms", self.terms),
            ("--login", self.login),
            ("--unwanted-words", self.unwanted_words),
        ):
            if path is not None and not path.is_file():
                raise ConfigError(f"{flag}: there is no file {path}")
        if self.benchmark is not None and not self.benchmark.is_dir():
            raise ConfigError(f"--benchmark: there is no folder {self.benchmark}")
        _ = self.accounts

    @property
    def where(self) -> str:
        """The store: a file or a URL."""
        return self.store or default_store()

    @property
    def boosts(self) -> dict[str, float]:
        """Factors of models. Raises ConfigError."""
        found: dict[str, float] = {}
        for each in self.boost:
            name, _, factor = each.rpartition("=")
            try:
                found[name] = float(factor)
            except ValueError:
                found[name] = 0.0
            if not name or not 0 < found[name] < float("inf"):
                raise ConfigError(f"--boost must be MODEL=FACTOR with a factor above 0, not '{each}'")
        return found

    @property
    def accounts(self) -> list[tuple[str, str]] | None:
        """The names and passwords of --login. Raises ConfigError for a line that holds none, and for no line at all."""
        if self.login is None:
            return None
        found: list[tuple[str, str]] = []
        for number, line in enumerate(self.login.read_text(errors="replace").splitlines(), start=1):
            name, _, password = line.strip().partition(":")
            if not name or name.startswith("#"):
                continue
            if not password:
                raise ConfigError(f"--login: line {number} of {self.login} must be NAME:PASSWORD")
            found.append((name, password))
        if not found:
            raise ConfigError(f"--login: {self.login} lets nobody in: it needs a line NAME:PASSWORD")
        return found

    @property
    def parameters(self) -> dict[str, float]:
        """The parameters of battles' requests."""
        return {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens}


def default_store() -> str:
    """The file in this user's data folder, where the arena and the commands for its data look."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return str(Path(data) / "inference-mesh" / "arena.sqlite3")
