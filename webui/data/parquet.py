"""Votes as a Parquet file: a row each, without the people behind them but for their hashes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

import pyarrow
from pyarrow import parquet

from webui.store.archive import Ballot

# pyarrow has no types.
_arrow: Any = cast("Any", pyarrow)
_parquet: Any = cast("Any", parquet)

_STYLE: Final = ("length", "headers", "lists", "bold")
_SCHEMA: Final[Any] = _arrow.schema(
    [
        ("battle", _arrow.string()),
        ("cast", _arrow.timestamp("ms", tz="UTC")),
        ("model_a", _arrow.string()),
        ("model_b", _arrow.string()),
        ("choice", _arrow.string()),
        ("blind", _arrow.bool_()),
        ("probability", _arrow.float64()),
        ("voter", _arrow.string()),
        ("turns", _arrow.int32()),
        ("language", _arrow.string()),
        ("categories", _arrow.list_(_arrow.string())),
        ("marks", _arrow.list_(_arrow.string())),
        *((f"{name}_{side}", _arrow.int32()) for name in _STYLE for side in "ab"),
        ("prompts", _arrow.list_(_arrow.string())),
        ("answers_a", _arrow.list_(_arrow.string())),
        ("answers_b", _arrow.list_(_arrow.string())),
    ]
)
_CHUNK: Final = 2000


def write(path: Path, ballots: Iterable[Ballot], *, texts: bool) -> int:
    """Write the file; returns how many votes. Without `texts` the columns of texts are null."""
    written, left = 0, iter(ballots)
    with _parquet.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
        while chunk := [_row(ballot, texts) for ballot in islice(left, _CHUNK)]:
            writer.write_table(_arrow.Table.from_pylist(chunk, schema=_SCHEMA))
            written += len(chunk)
    return written


def _row(ballot: Ballot, texts: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "battle": ballot.battle.id,
        "cast": ballot.vote.cast,
        "model_a": ballot.battle.models[0],
        "model_b": ballot.battle.models[1],
        "choice": ballot.vote.choice,
        "blind": ballot.battle.mode == "battle",
        "probability": ballot.battle.probability,
        "voter": ballot.vote.voter,
        "turns": len(ballot.turns),
        "language": ballot.language,
        "categories": sorted(ballot.categories),
        "marks": sorted(ballot.marks),
    }
    for name in _STYLE:
        row |= {f"{name}_a": getattr(ballot.a, name), f"{name}_b": getattr(ballot.b, name)}
    if texts:
        row["prompts"] = [turn.prompt for turn in ballot.turns]
        row |= {f"answers_{side}": [turn.answers[i].text for turn in ballot.turns] for i, side in enumerate("ab")}
    return row
