"""docs/metrics.md, the dashboard and the alert rules speak of metrics that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mesh.cli.metrics_page import names, page

ROOT = Path(__file__).parents[2]
_LABELS = re.compile(r"\{[^}]*\}|\bby\s*\([^)]*\)")
_NAME = re.compile(r"\b(?:mesh|gen_ai)_\w+")


def used(expression: str) -> set[str]:
    """The metrics that a PromQL expression reads."""
    return set(_NAME.findall(_LABELS.sub("", expression)))


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def expressions() -> Iterable[tuple[str, str]]:
    dashboard = json.loads((ROOT / "deploy/grafana/mesh.json").read_text())
    for panel in dashboard["panels"]:
        yield from ((panel["title"], target["expr"]) for target in panel["targets"])
    yield from ((rule["alert"], rule["expr"]) for rule in rules())


def test_the_page_is_current() -> None:
    assert (ROOT / "docs/metrics.md").read_text() == page() + "\n", "run make docs"


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_a_query_uses_metrics_that_there_are(where: str, expression: str) -> None:
    assert used(expression), where
    assert used(expression) <= names()


def test_a_name_that_there_is_not_is_found() -> None:
    found = used('sum by (mesh_label) (rate(mesh_gateway_tokens_total{gen_ai_request_model="m"}[5m]))')
    assert found == {"mesh_gateway_tokens_total"}
    assert not found <= names()


def test_panels_and_alerts_are_complete() -> None:
    panels = json.loads((ROOT / "deploy/grafana/mesh.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(rule["labels"]["severity"] and rule["annotations"]["summary"] for rule in rules())
