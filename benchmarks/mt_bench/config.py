"""The settings of each command; also environment variables, MESH_MTBENCH_..."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from benchmarks.mt_bench.question_set import SHIPPED, QuestionSet, load
from benchmarks.mt_bench.records import Mode
from mesh.config import ConfigError, option

ENV_PREFIX: Final = "MESH_MTBENCH_"
Format = Literal["table", "markdown", "csv", "json"]


@dataclass(frozen=True)
class SetConfig:
    """Which questions, and where a run keeps its files."""

    bench: str = option(
        SHIPPED,
        "Questions: mesh-mini, a name under --data-dir, a folder with question.jsonl, or a file.",
    )
    data_dir: Path = option(Path("data"), "Folder of question sets, where `mesh mtbench download` puts them.")
    out: Path | None = option(None, "Folder of the run: answers, judgments, failures. Default: mtbench/NAME-OF-SET.")
    references: str = option("", "Reference answers, where the set has several files of them: the file's name.")
    corrections: Path | None = option(None, "File of corrected reference answers, laid over the set's own.")

    def questions(self) -> QuestionSet:
        """The set. Raises BadFile."""
        return load(self.bench, self.data_dir, self.references, self.corrections)

    def folder(self, questions: QuestionSet) -> Path:
        """Where the run is."""
        return self.out or Path("mtbench") / questions.name


@dataclass(frozen=True)
class EndpointConfig(SetConfig):
    """Whom to ask, and how patiently."""

    base_url: str = option("http://127.0.0.1:8000/v1", "Address of an OpenAI-compatible API.")
    api_key: str | None = option(None, "Its API key. Default: OPENAI_API_KEY, or none.", secret=True)
    timeout: float = option(600.0, "Seconds for an answer.", low=0.1)
    attempts: int = option(6, "How often a request is tried in all if the endpoint fails or is busy.", low=1, high=100)
    patience: float = option(300.0, "Seconds that an endpoint may ask a request to wait in all (Retry-After).", low=0)
    token_parameter: Literal["max_tokens", "max_completion_tokens"] = option(
        "max_tokens", "How the endpoint wants the limit of tokens to be called: max_tokens or max_completion_tokens."
    )
    concurrency: int = option(16, "Requests at once.", low=1, high=4096)
    model_concurrency: int = option(16, "Requests at once to one model.", low=1, high=4096)
    first_n: int | None = option(None, "Only the first so many questions.", low=1)

    def key(self) -> str:
        """The API key to send; endpoints that want none ignore it."""
        return self.api_key or os.environ.get("OPENAI_API_KEY") or "none"


@dataclass(frozen=True)
class AnswerConfig(EndpointConfig):
    """Have models answer the questions. What is answered already is not asked again."""

    model: tuple[str, ...] = option((), "Model that answers; may be repeated.")
    num_choices: int = option(1, "Conversations for each question; the first one is judged.", low=1, high=100)
    max_tokens: int = option(1024, "Tokens of an answer at most.", low=1)
    temperature: float | None = option(
        None, "Instead of those that belong to the categories; -1 sends none.", low=-1, high=2
    )
    system: str = option("", "System prompt.")
    seed: int = option(0, "Seed of the first choice, counted up for the others; -1 sends none.", low=-1)

    def __post_init__(self) -> None:
        if not self.model:
            raise ConfigError("--model is required")


@dataclass(frozen=True)
class JudgeConfig(EndpointConfig):
    """Have judges grade or compare the answers. What is judged already is not asked again."""

    judge: tuple[str, ...] = option((), "Model that judges; may be repeated.")
    mode: Mode = option("single", "single grades answers; pairwise-baseline and pairwise-all compare them.")
    model: tuple[str, ...] = option((), "Model whose answers are judged; may be repeated. Default: all that answered.")
    baseline: str = option("", "The model that pairwise-baseline compares the others with.")
    judge_max_tokens: int = option(2048, "Tokens of a judgment at most.", low=1)
    judge_temperature: float = option(0.0, "Temperature of judgments; -1 sends none.", low=-1, high=2)
    verdict_attempts: int = option(
        2, "How often a judge is asked in all if its verdict cannot be read.", low=1, high=20
    )
    prices: Path | None = option(
        None, 'JSON file, prices of a million tokens: {"MODEL": {"input": 2.5, "output": 10}}.'
    )
    dry_run: bool = option(False, "Say what would be asked and what it would cost, and end.")

    def __post_init__(self) -> None:
        if not self.judge:
            raise ConfigError("--judge is required")
        if self.mode == "pairwise-baseline" and not self.baseline:
            raise ConfigError("--mode pairwise-baseline needs --baseline")
        if self.mode != "pairwise-baseline" and self.baseline:
            raise ConfigError(f"--baseline has no effect with --mode {self.mode}")


@dataclass(frozen=True)
class ChosenConfig(SetConfig):
    """Which judgments to look at."""

    mode: Mode | None = option(None, "single, pairwise-baseline or pairwise-all. Default: all that there is.")
    model: tuple[str, ...] = option((), "Only this model; may be repeated.")
    judge: tuple[str, ...] = option((), "Only this judge; may be repeated.")
    baseline: str = option("", "Only comparisons with this model.")

    def __post_init__(self) -> None:
        if self.mode == "pairwise-baseline" and not self.baseline:
            raise ConfigError("--mode pairwise-baseline needs --baseline")
        if self.mode in ("single", "pairwise-all") and self.baseline:
            raise ConfigError(f"--baseline has no effect with --mode {self.mode}")


@dataclass(frozen=True)
class ShowConfig(ChosenConfig):
    """Show the results in the terminal, or as Markdown, CSV or JSON."""

    format: Format = option("table", "table, markdown, csv or json.")


@dataclass(frozen=True)
class ReportConfig(ChosenConfig):
    """Write the results as one HTML page that needs nothing else."""

    html: Path | None = option(None, "The file. Default: report.html in the run's folder.")


@dataclass(frozen=True)
class AgreementConfig:
    """Tell how often two judges, people or models, agree (arXiv 2306.05685, setups S1 and S2)."""

    votes: tuple[str, ...] = option((), "Files of votes (FastChat's shape) or of judgments.", positional=True)
    judges: tuple[str, ...] = option((), "Two groups of voters: human, author, gpt-4-pair, NAME-single; or one twice.")
    per_pair: bool = option(False, "Also for each pair of models.")
    format: Literal["table", "markdown"] = option("table", "table or markdown.")

    def __post_init__(self) -> None:
        if not self.votes:
            raise ConfigError("a file of votes is required")
        if len(self.judges) != 2:
            raise ConfigError(f"--judges must be given twice, not {len(self.judges)} times")


@dataclass(frozen=True)
class ValidateConfig:
    """Check files: questions, answers, judgments, prompts, corrections. Problems come with file, line and field."""

    paths: tuple[str, ...] = option((), "Files, or folders of a question set or a run.", positional=True)

    def __post_init__(self) -> None:
        if not self.paths:
            raise ConfigError("a file or folder is required")


@dataclass(frozen=True)
class DownloadConfig:
    """Fetch MT-bench's and vicuna-bench's official questions, prompts and references, and check what came."""

    data_dir: Path = option(Path("data"), "Where to put them.")
    source: str = option(
        "https://raw.githubusercontent.com/lm-sys/FastChat/main/fastchat/llm_judge/data", "Address of the files."
    )


@dataclass(frozen=True)
class BrowseConfig(SetConfig):
    """Look at questions, answers and judgments in the browser."""

    host: str = option("127.0.0.1", "Address of the page.")
    port: int = option(7861, "Port of the page; 0 picks a free one.", low=0, high=65535)


COMMANDS: Final[dict[str, type[Any]]] = {
    "answer": AnswerConfig,
    "judge": JudgeConfig,
    "show": ShowConfig,
    "report": ReportConfig,
    "browse": BrowseConfig,
    "agreement": AgreementConfig,
    "validate": ValidateConfig,
    "download": DownloadConfig,
}
