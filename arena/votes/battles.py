"""Battles as GenAI-Arena and Chatbot Arena publish them: a JSON list of objects.

model_a, model_b, winner (model_a, model_b, tie or "tie (bothbad)"), tstamp (seconds since 1970)
and judge. "Both bad" says that neither won, so it is a tie here.
"""

import json
from pathlib import Path

import polars as pl

from arena.votes.table import Raw, VotesError, as_text, rejections

NAMES = {"outcome": "winner", "created_at": "tstamp", "rater": "judge"}
OUTCOME = {"model_a": "a", "model_b": "b", "tie": "tie", "tie (bothbad)": "tie"}


def read_battles(path: Path) -> Raw:
    """Read a battles file. Raises VotesError where it is not a JSON list with a winner."""
    try:
        battles = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise VotesError(f"{path}: not readable JSON ({error})") from None
    present = {key for battle in battles if isinstance(battle, dict) for key in battle}
    missing = [name for name in ("model_a", "model_b", "winner") if name not in present]
    if missing:
        raise VotesError(
            f"{path}: no battle has {', '.join(missing)}; a battles file is a JSON list of "
            "objects with model_a, model_b, winner and tstamp"
        )
    columns = ["model_a", "model_b", *(c for c, name in NAMES.items() if name in present)]
    rows, broken = [], []
    for row, battle in enumerate(battles, start=1):
        if not isinstance(battle, dict):
            broken.append((row, "", "not a JSON object", json.dumps(battle)[:200]))
            continue
        values = [as_text(battle.get(NAMES.get(name, name))) for name in columns]
        winner = values[columns.index("outcome")]
        # An unknown winner is kept as it is spelled: the check rejects the row and shows it.
        values[columns.index("outcome")] = OUTCOME.get(winner or "", f"winner {winner!r}")
        rows.append([row, *values])
    schema = {"row": pl.Int64} | dict.fromkeys(columns, pl.String)
    return Raw(pl.DataFrame(rows, schema=schema, orient="row"), rejections(broken, path), NAMES)
