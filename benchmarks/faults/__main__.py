"""`python -m benchmarks.faults`: what clients see while parts of the mesh fail, and the same on its peers."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.faults import report
from benchmarks.faults.scenarios import SCENARIOS
from benchmarks.faults.stage import Outcome, Plan, Scenario, Stage
from benchmarks.machine import describe
from benchmarks.processes import ProcessFailed, first_line
from benchmarks.systems import SYSTEMS
from benchmarks.systems.system import Inexpressible, Setup, System

# How often a system is started that does not come up.
_STARTS = 2


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, play, print."""
    options = _parser().parse_args(argv)
    if options.list:
        print("\n".join(f"{each.name}\n    {each.text}" for each in SCENARIOS.values()))
        return
    chosen = [SCENARIOS[name] for name in options.scenario or SCENARIOS]
    systems = [system for system in SYSTEMS.values() if system.name in (options.system or ["ours"])]
    for system in systems:
        if not system.installed():
            sys.exit(f"benchmarks.faults: {system.name} is not installed in {system.environment}: make bench-peers")
    plan = _plan(options)
    machine = describe()
    outcomes = asyncio.run(_play_all(systems, chosen, plan))
    conditions = [*machine.lines(), _conditions(plan)]
    print("\n".join(f"- {line}" for line in conditions))
    print("\n" + report.table(chosen, [system.name for system in systems], outcomes))
    if options.json:
        data = {"machine": machine.as_dict(), "conditions": conditions, "outcomes": report.as_list(outcomes)}
        options.json.write_text(json.dumps(data, indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__, allow_abbrev=False)
    parser.add_argument("--list", action="store_true", help="tell what happens in each scenario, and end")
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, metavar="NAME", help="some of them (all)")
    parser.add_argument("--system", nargs="+", choices=[*SYSTEMS], metavar="NAME", help=f"of {', '.join(SYSTEMS)}")
    parser.add_argument("--peers", dest="system", action="store_const", const=[*SYSTEMS], help="all systems")
    parser.add_argument("--every", action="store_true", help="strike after every token, not only after some")
    parser.add_argument("--tokens", type=int, default=20, help="tokens of an answer (20)")
    parser.add_argument("--outage", type=float, default=20.0, help="seconds that etcd is gone (20)")
    parser.add_argument("--patience", type=float, default=30.0, help="seconds that a client waits for an answer (30)")
    parser.add_argument("--json", type=Path, help="also write everything into this file")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    tokens: int = options.tokens
    some = (0, 1, tokens // 2, tokens - 1)
    return Plan(tuple(range(tokens)) if options.every else some, tokens, options.outage, options.patience)


def _conditions(plan: Plan) -> str:
    moments = ", ".join(map(str, plan.moments))
    return (
        f"answers of {plan.tokens} tokens; faults strike after {moments} tokens; etcd is gone for {plan.outage:g} s; "
        f"clients wait {plan.patience:g} s. A cell has the answers that were identical to the "
        "undisturbed one, the longest extra time of those, and what the client saw most often instead"
    )


async def _play_all(
    systems: Sequence[type[System]], chosen: Sequence[Scenario], plan: Plan
) -> dict[str, dict[str, Outcome]]:
    outcomes: dict[str, dict[str, Outcome]] = {scenario.name: {} for scenario in chosen}
    for system in systems:
        for setup, group in _groups(chosen, outcomes, system.name):
            await _play_group(system, setup, group, plan, outcomes)
    return outcomes


def _groups(
    chosen: Sequence[Scenario], outcomes: dict[str, dict[str, Outcome]], system: str
) -> Iterator[tuple[Setup, list[Scenario]]]:
    """Scenarios that can share a running system, as they have the same setup."""
    found: dict[Setup, list[Scenario]] = {}
    for scenario in chosen:
        try:
            found.setdefault(scenario.setup(), []).append(scenario)
        except Inexpressible as reason:
            outcomes[scenario.name][system] = Outcome(absent=str(reason))
    yield from found.items()


async def _play_group(
    system: type[System],
    setup: Setup,
    group: Sequence[Scenario],
    plan: Plan,
    outcomes: dict[str, dict[str, Outcome]],
) -> None:
    """Play on one system for as long as it works; one that is broken is started anew."""
    failed = 0
    for number in itertools.count():
        left = [scenario for scenario in group if system.name not in outcomes[scenario.name]]
        if not left:
            return
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix=f"bench-faults-{number}-")))
            try:
                running = await stack.enter_async_context(system(folder, setup))
                stage = Stage(running, plan)
                await stage.learn()
            except Inexpressible as reason:
                for scenario in left:
                    outcomes[scenario.name][system.name] = Outcome(absent=str(reason))
                return
            except (ProcessFailed, TimeoutError) as error:
                why = f"does not start: {first_line(error)}"
                _tell(f"{system.name}: {why}")
                failed += 1
                if failed < _STARTS:  # the machine may have had no time for it
                    continue
                for scenario in left:
                    outcomes[scenario.name][system.name] = Outcome(asked=1, troubles={why: 1})
                return
            for scenario in left:
                outcomes[scenario.name][system.name] = outcome = await _play(stage, scenario)
                _tell(f"{system.name}: {scenario.name}: {report.cell(outcome)}")
                if not await _whole(stage):
                    break


async def _play(stage: Stage, scenario: Scenario) -> Outcome:
    """The outcome of a scenario. What breaks the system itself is noted, and is the scenario's result."""
    stage.outcome = Outcome()
    try:
        await scenario.play(stage)
    except Inexpressible as reason:
        stage.outcome.absent = str(reason)
    except Exception as error:
        stage.outcome.notes.append(f"then {type(error).__name__} {first_line(error)}")
    return stage.outcome


async def _whole(stage: Stage) -> bool:
    """Whether the next scenario can use the system: what has ended is started again, and it answers as before."""
    try:
        await stage.system.renew()
        return not (await stage.ask()).differs(stage.reference)
    except Exception as error:
        _tell(f"{stage.system.name}: does not come back, is started anew ({type(error).__name__})")
        return False


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
