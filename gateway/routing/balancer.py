"""Balancing as it is set: the policy of each model, what the policies remember, and how well they foretell.

Operators set a model's policy in the registry (`mesh ctl routes`); all gateways mirror it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from gateway.routing import balance
from gateway.routing.prefix import PrefixTable, Prompt
from gateway.routing.session import Session
from mesh.log import kv
from mesh.metrics import GatewayMetrics
from mesh.policy import PolicyName
from mesh.v1 import inference_pb2 as pb
from mesh.v1.registry_pb2 import Route

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model's requests are spread. See mesh.v1.Route."""

    policy: PolicyName = "prefix_aware"
    load_factor: float = 1.25
    any_zone: bool = False
    hedge_after: float = 0.0


class Balancer:
    """Chooses the worker of every request."""

    def __init__(self, default: Settings, *, zone: str, prefix_marks: int, metrics: GatewayMetrics) -> None:
        self._default = default
        self._zone = zone
        self._metrics = metrics
        self._routes: dict[str, Settings] = {}
        self._turns: dict[str, balance.Turns] = {}
        self._table = PrefixTable(prefix_marks)
        metrics.prefix_marks.set_function(lambda: len(self._table))

    def on_route(self, model: str, route: Route | None) -> None:
        """An operator has set how a model is balanced, or no longer does (None)."""
        self._turns.pop(model, None)
        self._routes.pop(model, None)
        if route is not None:
            self._routes[model] = Settings(
                policy=route.policy or self._default.policy,  # pyright: ignore[reportArgumentType]  # `decode_route` looks
                load_factor=route.load_factor if route.HasField("load_factor") else self._default.load_factor,
                any_zone=route.any_zone,
                hedge_after=route.hedge_after if route.HasField("hedge_after") else self._default.hedge_after,
            )
        log.info("route", extra=kv(model=model, **asdict(self._routes.get(model, self._default))))

    def hedge_after(self, model: str) -> float:
        """Seconds without a first token after which a second worker is asked; 0 is never."""
        return self._routes.get(model, self._default).hedge_after

    def pick(self, prompt: Prompt, sessions: Sequence[Session]) -> Session:
        """One of at least one live session."""
        route = self._routes.get(prompt.model, self._default)
        near = sessions if route.any_zone else balance.prefer_zone(sessions, self._zone)
        match route.policy:
            case "prefix_aware":
                return self._by_prefix(prompt, near, route.load_factor)
            case "least_loaded":
                return balance.least_loaded(near)
            case "round_robin":
                turns = self._turns.setdefault(prompt.model, balance.Turns())
                if len(turns.next) > 2 * len(sessions) + 16:
                    turns.forget()
                return balance.round_robin(near, turns)
            case "random":
                return balance.random_choice(near)

    def started(self, prompt: Prompt, started: pb.Started) -> None:
        """The worker has told how much of the prompt it had: set it beside what was expected."""
        if prompt.predicted is None or started.text_only:
            return
        predicted = round(prompt.predicted * started.prompt_tokens)
        metrics, model = self._metrics, prompt.model
        metrics.prefix_tokens.labels(model, "prompt").inc(started.prompt_tokens)
        metrics.prefix_tokens.labels(model, "predicted").inc(predicted)
        metrics.prefix_tokens.labels(model, "cached").inc(started.cached_tokens)
        metrics.prefix_tokens.labels(model, "error").inc(abs(predicted - started.cached_tokens))

    def _by_prefix(self, prompt: Prompt, sessions: Sequence[Session], factor: float) -> Session:
        prefix, table = prompt.prefix, self._table
        if prefix is None:
            return balance.least_loaded(sessions)
        chosen, moved = balance.prefix_aware(sessions, prefix, table, factor)
        prompt.predicted = table.cached_share(prefix, chosen.process)
        table.note(prefix, chosen.process)
        place = "busy" if moved else "known" if prompt.predicted else "hashed"
        self._metrics.prefix_picks.labels(prompt.model, place).inc()
        return chosen
