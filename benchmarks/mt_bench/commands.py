"""What each command does with its settings; returns the exit code: 0, or 1 if something failed or is wrong."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from benchmarks.mt_bench import answering, cost, matches, tables
from benchmarks.mt_bench.agreement import agreements, read_votes
from benchmarks.mt_bench.answering import AnswerPlan
from benchmarks.mt_bench.cache import Cache
from benchmarks.mt_bench.config import (
    AgreementConfig,
    AnswerConfig,
    BrowseConfig,
    ChosenConfig,
    DownloadConfig,
    EndpointConfig,
    JudgeConfig,
    ReportConfig,
    ShowConfig,
    ValidateConfig,
)
from benchmarks.mt_bench.endpoint import Endpoint
from benchmarks.mt_bench.export import as_csv, as_json
from benchmarks.mt_bench.jsonl import BadFile
from benchmarks.mt_bench.judging import JudgePlan, Judging
from benchmarks.mt_bench.matches import Matches
from benchmarks.mt_bench.question_set import QuestionSet
from benchmarks.mt_bench.records import Failure, answer_path, read_answers
from benchmarks.mt_bench.results import Results, collect
from benchmarks.mt_bench.run_folder import held
from benchmarks.mt_bench.tables import Table
from mesh.counted import counted


def _endpoint(config: EndpointConfig) -> Endpoint:
    return Endpoint(
        config.base_url,
        config.key(),
        timeout=config.timeout,
        attempts=config.attempts,
        patience=config.patience,
        token_parameter=config.token_parameter,
    )


def _show(*shown: Table) -> None:
    # A file or a pipe has no width of its own.
    tables.to_terminal(shown, Console() if sys.stdout.isatty() else Console(width=160))


def answer(config: AnswerConfig) -> int:
    """Have models answer."""
    questions = config.questions().first(config.first_n)
    folder = config.folder(questions)
    plan = AnswerPlan(
        models=[*dict.fromkeys(config.model)],
        choices=config.num_choices,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        system=config.system or None,
        seed=None if config.seed < 0 else config.seed,
        limit=config.concurrency,
        limit_each=config.model_concurrency,
    )

    async def run() -> list[Failure]:
        async with _endpoint(config) as endpoint:
            return await answering.answer(plan, questions, folder, endpoint)

    folder.mkdir(parents=True, exist_ok=True)
    with held(folder):
        failures = asyncio.run(run())
    _answered(plan, questions, folder)
    return _why(failures)


def _answered(plan: AnswerPlan, questions: QuestionSet, folder: Path) -> None:
    """Say how many answers there are."""
    rows: list[list[str]] = []
    for model in plan.models:
        path = answer_path(folder, model)
        answers = read_answers(path)
        have = sum(answering.is_whole(answers.get(each.id), each, plan.choices) for each in questions.questions)
        rows.append([model, str(have), str(len(questions.questions) - have), str(path)])
    _show(Table(f"Answers to {questions.name}", ["model", "answers", "failed", "file"], rows))


def _why(failures: Sequence[Failure]) -> int:
    """Say why there are failures, each reason once; 1 if there are any."""
    reasons: dict[str, list[Failure]] = {}
    for failure in failures:
        reasons.setdefault(failure.reason, []).append(failure)
    for reason, (first, *rest) in reasons.items():
        who = " : ".join(name for name in (first.judge, first.model, first.model_2) if name)
        turn = f", turn {first.turn}" if first.turn else ""
        more = f" and {len(rest)} more" if rest else ""
        print(f"failed: {who}, question {first.question_id}{turn}{more}: {reason}", file=sys.stderr)
    if failures:
        print(f"{len(failures)} failed; the same command tries them again", file=sys.stderr)
    return 1 if failures else 0


def judge(config: JudgeConfig) -> int:
    """Have judges judge."""
    questions = config.questions().first(config.first_n)
    folder = config.folder(questions)
    prices = cost.read_prices(config.prices)
    if not matches.answered_models(folder):
        raise BadFile(f"{folder / 'model_answer'} holds no answers; mesh mtbench answer makes them")
    # Held from the plan on: what another run judges meanwhile would be judged twice.
    with nullcontext() if config.dry_run else held(folder):
        planned = _plan(config, questions, folder)
        _planned(config, questions, planned, prices)
        if config.dry_run:
            return 0
        judging = asyncio.run(_judge(config, questions, folder, planned))
    _judged(judging, prices)
    return _why(judging.failures) or int(judging.spent.unscored > 0)


def _plan(config: JudgeConfig, questions: QuestionSet, folder: Path) -> dict[str, Matches]:
    """What each judge is still to judge."""
    models = [*dict.fromkeys(config.model)] or matches.answered_models(folder)
    wanted = [*dict.fromkeys([*models, config.baseline])] if config.baseline else models
    answers = matches.load_answers(folder, wanted)
    who = matches.contests(config.mode, models, config.baseline)
    return {name: matches.plan(questions, answers, name, who, folder) for name in dict.fromkeys(config.judge)}


async def _judge(config: JudgeConfig, questions: QuestionSet, folder: Path, planned: dict[str, Matches]) -> Judging:
    plan = JudgePlan(
        max_tokens=config.judge_max_tokens,
        temperature=None if config.judge_temperature < 0 else config.judge_temperature,
        attempts=config.verdict_attempts,
        limit=config.concurrency,
        limit_each=config.model_concurrency,
    )
    async with _endpoint(config) as endpoint:
        judging = Judging(plan, folder, endpoint, Cache(folder / "cache"))
        await judging.play([match for each in planned.values() for match in each.todo], questions.ids)
    return judging


def _planned(
    config: JudgeConfig, questions: QuestionSet, planned: dict[str, Matches], prices: dict[str, cost.Price]
) -> None:
    """Say what will be asked, and about what it will cost."""
    expected = cost.estimate(match for each in planned.values() for match in each.todo)
    costs = {row[0]: row for row in cost.told({name: each.usage for name, each in expected.items()}, prices)}
    rows = [
        [
            name,
            str(len(each.todo)),
            str(each.done),
            str(each.unanswered),
            str(expected[name].requests if name in expected else 0),
            *(costs[name][1:] if name in costs else ("0", "0", "0")),
        ]
        for name, each in planned.items()
    ]
    header = ["judge", "to judge", "judged", "no answer", "requests", "input tokens ≈", "output tokens ≈", "cost ≈"]
    _show(Table(f"{questions.name}, {config.mode}, prompts of {questions.prompts_file}", header, rows))


def _judged(judging: Judging, prices: dict[str, cost.Price]) -> None:
    """Say what became of it, and what it cost."""
    spent = judging.spent
    outcome = f"{spent.judged} judged, of which {spent.unscored} without a verdict; {len(judging.failures)} failed"
    print(f"{outcome}; {counted(spent.requests, 'request')}, {spent.cached} from the cache")
    if spent.usage:
        rows = cost.told(spent.usage, prices)
        _show(Table("Used", ["judge", "input tokens", "output tokens", "cost"], rows))
    if spent.unknown:
        print(f"not in these figures: {counted(spent.unknown, 'request')} of which the endpoint told no usage")


def _collect(config: ChosenConfig) -> tuple[Results, QuestionSet, Path]:
    questions = config.questions()
    folder = config.folder(questions)
    results = collect(
        folder,
        questions,
        mode=config.mode,
        models=config.model,
        judges=config.judge,
        baseline=config.baseline or None,
    )
    return results, questions, folder


def show(config: ShowConfig) -> int:
    """Show the results."""
    results, _, _ = _collect(config)
    formats: dict[str, Callable[[Results], str]] = {
        "markdown": lambda found: tables.as_markdown(tables.tables(found)),
        "csv": as_csv,
        "json": as_json,
    }
    if config.format == "table":
        _show(*tables.tables(results))
    else:
        sys.stdout.write(formats[config.format](results))
    return 0


def agreement(config: AgreementConfig) -> int:
    """Tell how often judges agree."""
    votes = [vote for path in config.votes for vote in read_votes(Path(path))]
    found = agreements(votes, config.judges[0], config.judges[1], per_pair=config.per_pair)
    table = tables.agreement_table(found)
    if config.format == "markdown":
        sys.stdout.write(tables.as_markdown([table]))
    else:
        _show(table)
    return 0


def report(config: ReportConfig) -> int:
    """Write the HTML page."""
    from benchmarks.mt_bench.report import page

    results, questions, folder = _collect(config)
    path = config.html or folder / "report.html"
    page.write(path, results, questions, folder)
    print(path)
    return 0


def browse(config: BrowseConfig) -> int:
    """Serve the page."""
    from benchmarks.mt_bench import browser

    questions = config.questions()
    browser.serve(questions, config.folder(questions), config.host, config.port)
    return 0


def validate(config: ValidateConfig) -> int:
    """Check files."""
    from benchmarks.mt_bench.validation import check

    problems = [problem for path in config.paths for problem in check(Path(path))]
    for problem in problems:
        print(problem)
    if not problems:
        print("no problem found")
    return 1 if problems else 0


def download(config: DownloadConfig) -> int:
    """Fetch the official files."""
    from benchmarks.mt_bench.official import fetch

    for path in fetch(config.source, config.data_dir):
        print(path)
    return 0
