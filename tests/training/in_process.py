"""Train in this process, and read what was written."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

from training.loop import train
from training.pairs import open_pairs
from training.study_file import data_config, policy_config, read_study


def run(
    study: Path,
    out: Path,
    policy: str = "arenapo",
    overrides: Any = (),
    pairs: Path | None = None,
    judges: int = 1,
    **options: Any,
) -> dict[str, Any]:
    """Train `policy` of `study` into `out`; return its result.

    `judges` is the number of held-out pairs that validate: more than all of a step's time would go
    into them, so one where they are not what is tested.
    """
    data = data_config(read_study(study, overrides))
    config = policy_config(study, policy, overrides)
    with patch("training.watching.HELD_OUT_PAIRS", judges):
        return train(config, data, open_pairs(pairs or data.pairs), out, **options)


def lines(out: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
