"""The command itself."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live

from mesh.cli.target import TargetConfig, open_target
from mesh.cli.throughput.load import Load, prompts
from mesh.cli.throughput.report import summary, view
from mesh.config import ConfigError, option

_CONCURRENCY = 8
_LOOK = 0.25
_WIDE = 1000


@dataclass(frozen=True)
class ThroughputConfig(TargetConfig):
    """Send many requests, through the gateway or straight to a worker, and tell how soon and how fast answers come.

    Ctrl-C ends it early, and tells what there is until then.
    """

    requests: int = option(64, "How many requests.", low=1, high=100_000)
    concurrency: int | None = option(
        None, f"How many at a time. Default: {_CONCURRENCY}, unless --rate is given.", low=1, high=1024
    )
    rate: float | None = option(
        None, "Begin so many a second, at random times (Poisson), whether or not earlier ones are answered.", low=0.001
    )
    prompt_words: int = option(64, "Words of each prompt: made up, each prompt another one.", low=1, high=100_000)
    answer_tokens: int = option(64, "Longest answer.", low=1)
    ignore_eos: bool = option(
        True, "Have answers go on to that length, beyond the model's own end: then runs can be compared."
    )
    seed: int = option(0, "Makes the prompts and the times.")
    json: bool = option(False, "Print JSON, with times in seconds, once at the end.")

    def __post_init__(self) -> None:
        if self.rate is not None and self.concurrency is not None:
            raise ConfigError("--rate and --concurrency exclude each other: at a rate, as many run as it takes")
        super().__post_init__()


def throughput(config: ThroughputConfig) -> int:
    """Run it; returns the exit code, 1 unless all was answered. Raises MeshError."""
    endpoint, model = open_target(config)
    title = f"{model or 'the model'} at {endpoint.where}"
    with contextlib.closing(endpoint):
        load = Load(endpoint, _bodies(config, model), config.seed)
        if config.rate is not None:
            load.start_open(config.rate)
        else:
            load.start_closed(config.concurrency or _CONCURRENCY)
        try:
            _watch(load, title, live=sys.stdout.isatty() and not config.json)
        except KeyboardInterrupt:
            load.stop()
        _tell(config, load, title)
    return 0 if len(load.answers) == load.planned else 1


def _bodies(config: ThroughputConfig, model: str) -> list[dict[str, Any]]:
    body: dict[str, Any] = {"model": model, "max_tokens": config.answer_tokens, "seed": config.seed}
    if config.ignore_eos:
        body["ignore_eos"] = True
    texts = prompts(config.requests, config.prompt_words, config.seed)
    return [{**body, "messages": [{"role": "user", "content": text}]} for text in texts]


def _watch(load: Load, title: str, *, live: bool) -> None:
    if not live:
        while not load.wait(_LOOK):
            pass
        return
    with Live(view(title, load), auto_refresh=False, transient=True) as screen:
        while not load.wait(_LOOK):
            screen.update(view(title, load), refresh=True)


def _tell(config: ThroughputConfig, load: Load, title: str) -> None:
    if config.json:
        print(json.dumps({"target": title, **summary(load)}))
        return
    console = Console() if sys.stdout.isatty() else Console(width=_WIDE)
    console.print(view(title, load))
