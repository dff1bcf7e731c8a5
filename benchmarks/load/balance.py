"""`python -m benchmarks.load.balance`: what each policy makes of a trace of conversations, on simulated workers.

The policies are the gateway's own. The workers are simulated, each with a prefix cache that forgets what was used least
recently, so all figures are counts, the same on every machine. Several gateways share nothing but the loads that
workers report. Conversations come by few system prompts, and pause between their turns.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.table import markdown
from gateway.routing.balancer import Balancer, Settings
from gateway.routing.pace import StallLimits
from gateway.routing.prefix import Prefix, Prompt
from gateway.routing.session import Session
from mesh.dial import dialler
from mesh.metrics import GatewayMetrics
from mesh.policy import POLICIES, PolicyName
from mesh.v1 import inference_pb2 as pb
from mesh.v1.registry_pb2 import WorkerRecord

WORKERS, SLOTS = 8, 16
CONVERSATIONS, TURNS, SYSTEMS = 600, 6, 12
SYSTEM_WORDS, QUESTION_WORDS, ANSWER_WORDS = 500, 60, 120
# Seconds: mean between two conversations, mean pause of a client, for a token of prefill, for one of an answer.
ARRIVAL, PAUSE, PREFILL, DECODE = 0.25, 8.0, 0.0005, 0.02


class Conversation:
    """What a client sends in its turns."""

    def __init__(self, number: int, draw: random.Random) -> None:
        self.home = ""
        self.turn = 1
        self._draw = draw
        system = random.Random(number % SYSTEMS)
        self.request = pb.GenerateRequest(model="m")
        self.say("system", SYSTEM_WORDS, system)
        self.say("user", QUESTION_WORDS, draw)

    def say(self, role: str, words: int, draw: random.Random | None = None) -> None:
        """Another message."""
        text = " ".join(f"{(draw or self._draw).randrange(10**5):05}" for _ in range(words))
        self.request.chat.messages.add(role=role).parts.add(text=text)


class Worker:
    """A prefix cache of `limit` marks, and the rows that it runs."""

    def __init__(self, number: int, limit: int) -> None:
        record = WorkerRecord(worker_id=f"worker-{number}", incarnation="i", address="-", slots=SLOTS)
        self.session = Session(
            record,
            client="",
            dial=dialler(None),
            limits=StallLimits(),
            on_change=lambda: None,
            on_message=lambda: None,
            on_load=lambda _: None,
        )
        self.rows = self.tokens = 0
        self._limit = limit
        self._cache: OrderedDict[int, None] = OrderedDict()

    def cached(self, prefix: Prefix) -> int:
        """Bytes of a prompt that it has."""
        return next((mark.size for mark in reversed(prefix.marks) if mark.digest in self._cache), 0)

    def keep(self, prefix: Prefix) -> None:
        """It has computed all of this."""
        for mark in prefix.marks:
            self._cache[mark.digest] = None
            self._cache.move_to_end(mark.digest)
        while len(self._cache) > self._limit:
            self._cache.popitem(last=False)

    def change(self, rows: int, tokens: int) -> None:
        """Begin or end a row, and say so."""
        self.rows += rows
        self.tokens += tokens
        self.session.report(pb.WorkerLoad(running=self.rows, slots=SLOTS, running_tokens=self.tokens))


@dataclass
class Counts:
    """Of a trace; sizes in bytes of prompts. `spread`: at each request, the fullest worker's rows over the mean."""

    prompt: int = 0
    cached: int = 0
    predicted: float = 0.0
    error: float = 0.0
    moves: int = 0
    late_turns: int = 0
    spread: list[float] = field(default_factory=list[float])


class Trace:
    """One run of all conversations under one policy."""

    def __init__(self, policy: PolicyName, gateways: int, cache: int, seed: int) -> None:
        random.seed(seed)
        self.counts = Counts()
        self._draw = random.Random(seed)
        self._workers = {worker.session.process: worker for worker in (Worker(i, cache) for i in range(WORKERS))}
        self._sessions = [worker.session for worker in self._workers.values()]
        self._balancers = [
            Balancer(Settings(policy), zone="", prefix_marks=100_000, metrics=GatewayMetrics()) for _ in range(gateways)
        ]
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._now = 0.0

    def run(self) -> Counts:
        """All of it."""
        start = 0.0
        for number in range(CONVERSATIONS):
            start += self._draw.expovariate(1 / ARRIVAL)
            self._after(start, self._asking(Conversation(number, self._draw)))
        while self._events:
            self._now, _, act = heapq.heappop(self._events)
            act()
        return self.counts

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now + seconds, next(self._order), act))

    def _asking(self, talk: Conversation) -> Callable[[], None]:
        def ask() -> None:
            prompt, prefix = Prompt(talk.request), Prefix(talk.request)
            session = self._draw.choice(self._balancers).pick(prompt, self._sessions)
            worker = self._workers[session.process]
            cached = worker.cached(prefix)
            self._count(talk, session.process, prompt, prefix.size, cached)
            worker.change(1, prefix.size // 4)
            rows = [each.rows for each in self._workers.values()]
            self.counts.spread.append(max(rows) * WORKERS / sum(rows))
            seconds = (prefix.size - cached) / 4 * PREFILL + ANSWER_WORDS * DECODE
            self._after(seconds, lambda: self._answer(talk, worker, prefix.size // 4))

        return ask

    def _count(self, talk: Conversation, process: str, prompt: Prompt, size: int, cached: int) -> None:
        counts = self.counts
        counts.prompt += size
        counts.cached += cached
        predicted = (prompt.predicted or 0.0) * size
        counts.predicted += predicted
        counts.error += abs(predicted - cached)
        counts.late_turns += talk.turn > 1
        counts.moves += talk.turn > 1 and talk.home != process
        talk.home = process

    def _answer(self, talk: Conversation, worker: Worker, tokens: int) -> None:
        worker.change(-1, -tokens)
        talk.say("assistant", ANSWER_WORDS)
        worker.keep(Prefix(talk.request))
        if talk.turn < TURNS:
            talk.turn += 1
            talk.say("user", QUESTION_WORDS)
            self._after(self._draw.expovariate(1 / PAUSE), self._asking(talk))


def main(argv: Sequence[str] | None = None) -> None:
    """Run every policy and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load.balance", description=__doc__, allow_abbrev=False)
    parser.add_argument("--cache", type=int, default=2000, help="marks that a worker's cache holds (2000)")
    parser.add_argument("--seed", type=int, default=1, help="of the trace and of all draws (1)")
    options = parser.parse_args(argv)
    print(
        f"{CONVERSATIONS} conversations of {TURNS} turns under {SYSTEMS} system prompts, {WORKERS} workers of {SLOTS} "
        f"slots, caches of {options.cache} marks, seed {options.seed}\n"
    )
    rows: list[list[str]] = []
    for gateways, policy in itertools.product((1, 4), POLICIES):
        rows.append(_row(policy, gateways, Trace(policy, gateways, options.cache, options.seed).run()))
    header = ["policy", "gateways", "cached %", "predicted %", "error %", "turns moved %", "spread mean", "spread p99"]
    print(markdown(header, rows))


def _row(policy: PolicyName, gateways: int, counts: Counts) -> list[str]:
    foretold = policy == "prefix_aware"
    spread = sorted(counts.spread)
    return [
        policy,
        str(gateways),
        f"{100 * counts.cached / counts.prompt:.1f}",
        f"{100 * counts.predicted / counts.prompt:.1f}" if foretold else "-",
        f"{100 * counts.error / counts.prompt:.1f}" if foretold else "-",
        f"{100 * counts.moves / counts.late_turns:.1f}",
        f"{sum(spread) / len(spread):.2f}",
        f"{spread[len(spread) * 99 // 100]:.2f}",
    ]


if __name__ == "__main__":
    main()
