"""A board as a table: rows for the page, CSV and JSON for downloads."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from mesh.counted import counted
from webui.leaderboard.board import Board, Standing
from webui.leaderboard.graph import Status
from webui.records import ModelCard

HEADERS: Final = ("Rank", "Model", "Score", "Interval", "Votes", "Won", "Organisation", "Licence")
# The types of the columns, as Gradio names them.
TYPES: Final = ("number", "markdown", "number", "str", "number", "str", "str", "str")
_WHY: Final = {
    Status.RANKED: "too few votes",
    Status.UNDEFEATED: "undefeated",
    Status.WINLESS: "without a win",
    Status.UNCONNECTED: "not compared with the others",
}


def rows(board: Board, cards: Mapping[str, ModelCard]) -> list[list[Any]]:
    """One row a model, in the order of HEADERS; the model is a link where its card has one."""
    return [_row(standing, cards.get(standing.model)) for standing in board.standings]


def interval(standing: Standing) -> str:
    """The interval as distances from the score, or why there is none."""
    if standing.score is None or standing.low is None or standing.high is None:
        return _WHY[standing.status]
    if standing.rank is None:
        return _WHY[Status.RANKED]
    return f"+{standing.high - standing.score:.0f} / −{standing.score - standing.low:.0f}"


def as_csv(board: Board, cards: Mapping[str, ModelCard]) -> str:
    """The table with its intervals as numbers."""
    target = io.StringIO()
    writer = csv.DictWriter(target, list(_fields(Standing("", Status.RANKED, 0), None)))
    writer.writeheader()
    for standing in board.standings:
        writer.writerow(
            {name: _harmless(value) for name, value in _fields(standing, cards.get(standing.model)).items()}
        )
    return target.getvalue()


def as_json(board: Board, cards: Mapping[str, ModelCard], as_of: datetime) -> str:
    """The board with all that is needed to make it again from the same votes."""
    rules = board.rules
    found = {
        "as_of": as_of.isoformat(timespec="seconds"),
        "category": board.category,
        "style_control": board.styled,
        "votes": board.votes,
        "method": {
            "model": "Bradley-Terry, a tie as half a win, Newton's method to 1e-9",
            "intervals": rules.intervals,
            "level": rules.level,
            "anchor": rules.anchor,
            **({"rounds": rules.rounds, "seed": rules.seed} if rules.intervals == "bootstrap" else {}),
        },
        "style": {name: {"points": effect, "error": error} for name, (effect, error) in board.style.items()},
        "notes": list(board.notes),
        "models": [_fields(standing, cards.get(standing.model)) for standing in board.standings],
    }
    return json.dumps(found, ensure_ascii=False, indent=1)


def summary(board: Board, as_of: datetime) -> str:
    """What the numbers rest on, in a few sentences (Markdown)."""
    ranked = sum(standing.rank is not None for standing in board.standings)
    voted, models = counted(board.votes, "vote"), counted(len(board.standings), "model")
    lines = [f"{voted} on {models}, {ranked} ranked; {as_of:%Y-%m-%d %H:%M} UTC."]
    hangs = board.sensitivity
    if hangs is not None and hangs.votes is not None:
        part = f"{counted(hangs.votes, 'vote')} ({hangs.votes / board.votes:.2%})"
        them = "it" if hangs.votes == 1 else "them"
        lines.append(f"The first place hangs on {part}: without {them} {hangs.rival} would lead.")
    elif hangs is not None and hangs.limit == 1:
        lines.append(f"Without the vote that helps it most {hangs.leader} would still lead.")
    elif hangs is not None:
        lines.append(f"Without the {hangs.limit:,} votes that help it most {hangs.leader} would still lead.")
    lines += [f"{name}: {effect:+.0f} ± {error:.0f} points." for name, (effect, error) in board.style.items()]
    return " ".join([*lines, *board.notes])


def link(model: str, card: ModelCard | None) -> str:
    """A model's name, as a Markdown link where its card has a web address."""
    name = "".join("\\" + character if character in r"\`*_[]<>#|" else character for character in model)
    return f"[{name}]({card.link})" if card and safe_link(card.link) else name


def safe_link(address: str) -> bool:
    """Whether this is a web address, and no more than that."""
    return address.startswith(("https://", "http://")) and not any(mark in address for mark in " <>()\"'\n")


def _row(standing: Standing, card: ModelCard | None) -> list[Any]:
    return [
        standing.rank,
        link(standing.model, card),
        None if standing.score is None else round(standing.score),
        interval(standing),
        standing.votes,
        "" if standing.won is None or standing.won != standing.won else f"{standing.won:.0%}",
        card.organization if card else "",
        card.license if card else "",
    ]


def _fields(standing: Standing, card: ModelCard | None) -> dict[str, Any]:
    won = standing.won if standing.won == standing.won else None
    return {
        "rank": standing.rank,
        "model": standing.model,
        "score": _rounded(standing.score),
        "low": _rounded(standing.low),
        "high": _rounded(standing.high),
        "votes": standing.votes,
        "won": None if won is None else round(won, 4),
        "status": standing.status.value,
        "organization": card.organization if card else "",
        "license": card.license if card else "",
        "link": card.link if card else "",
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _harmless(value: Any) -> Any:
    """Text that a spreadsheet will not take for a formula."""
    return "'" + value if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value
