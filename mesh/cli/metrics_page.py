"""`python -m mesh.cli.metrics_page`: prints docs/metrics.md, from the metrics that gateways and workers really have."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import cast

from prometheus_client.metrics import MetricWrapperBase

from mesh.engine.base import Load
from mesh.metrics import GatewayMetrics, WorkerMetrics

_HEAD = """# Metrics

Written by `make docs` from the code; a test sees to it that it is current.

Gateways and workers serve them on `/metrics` in Prometheus' format: a gateway on its own port, a worker on
`--metrics-port`. Durations are in seconds, sizes in tokens. Names that begin with `gen_ai_` are those of
OpenTelemetry's conventions for servers of generative models, as Prometheus spells them. A counter's name ends in
`_total`, a histogram has `_bucket`, `_sum` and `_count`.
"""
_ENGINE = """## Engine

A worker also reports each of its engine's own counters as `mesh_engine_<name>`; which there are is the engine's to say.
The default engine has among others `steps`, `prompt_tokens`, `output_tokens`, `prefix_hit_tokens`, `preemptions`,
`kv_pages_total` and `kv_pages_used`; `mesh ctl stats WORKER` shows all of them.
"""


def page() -> str:
    """The whole page."""
    loads = [(f"mesh_worker_load_{each.name}", "gauge", "", f"See `WorkerLoad.{each.name}`.") for each in fields(Load)]
    return "\n".join(
        [
            _HEAD,
            _section("Gateway", _rows(GatewayMetrics())),
            _section("Worker", [*_rows(WorkerMetrics()), *loads]),
            _ENGINE.rstrip(),
        ]
    )


def names() -> set[str]:
    """Every name that a query may use; those of engines are not known in advance."""
    found: set[str] = set()
    for name, kind, _, _ in (*_rows(GatewayMetrics()), *_rows(WorkerMetrics())):
        found |= {f"{name}{end}" for end in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
    return found | {f"mesh_worker_load_{each.name}" for each in fields(Load)}


Row = tuple[str, str, str, str]


def _rows(metrics: GatewayMetrics | WorkerMetrics) -> list[Row]:
    """Name, kind, labels and help of each, in the order in which they are declared."""
    rows: list[Row] = []
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            [described] = metric.describe()
            name = described.name + ("_total" if described.type == "counter" else "")
            own = cast("Sequence[str]", metric._labelnames)  # pyright: ignore[reportPrivateUsage]
            labels = ", ".join(f"`{label}`" for label in own)
            rows.append((name, described.type, labels, described.documentation))
    return rows


def _section(title: str, rows: Iterable[Row]) -> str:
    lines = [f"| `{name}` | {kind} | {labels} | {text} |" for name, kind, labels, text in rows]
    return "\n".join([f"## {title}\n", "| name | kind | labels | meaning |", "| :-- | :-- | :-- | :-- |", *lines, ""])


if __name__ == "__main__":
    sys.stdout.write(page() + "\n")
