"""Battles as GenAI-Arena and Chatbot Arena publish them: a JSON list of objects.

model_a, model_b, winner (model_a, model_b, tie or "tie (bothbad)"), tstamp (seconds since 1970)
and judge. "Both bad" says that neither won, so it is a tie here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arena.votes.files import json_records
from arena.votes.raw import Broken, Raw, VotesError, as_text, frame, rejections

NAMES = {"outcome": "winner", "created_at": "tstamp", "rater": "judge"}
OUTCOME = {"model_a": "a", "model_b": "b", "tie": "tie", "tie (bothbad)": "tie"}


def read_battles(path: Path) -> Iterator[Raw]:
    """Read a battles file. Raises VotesError where no battle has a winner."""
    broken: Broken = []
    battles = list(json_records(path, broken))
    present = {key for _, battle in battles for key in battle}
    missing = [name for name in ("model_a", "model_b", "winner") if name not in present]
    if missing:
        raise VotesError(
            f"{path}: no battle has {', '.join(missing)}; a battles file is a JSON list of "
            "objects with model_a, model_b, winner and tstamp"
        )
    columns = ["model_a", "model_b", *(c for c, name in NAMES.items() if name in present)]
    rows: list[list[Any]] = []
    for row, battle in battles:
        values = [as_text(battle.get(NAMES.get(name, name))) for name in columns]
        winner = values[columns.index("outcome")]
        # An unknown winner is kept as it is spelled: the check rejects the row and shows it.
        values[columns.index("outcome")] = OUTCOME.get(winner or "", f"winner {winner!r}")
        rows.append([row, *values])
    yield Raw(frame(rows, columns), rejections(broken, path), NAMES)
