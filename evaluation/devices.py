"""Where a job computes, and which of the processes that share it this is.

A job that `accelerate launch` or torchrun starts several times shares its work out by rank
(`items[RANK::WORLD]`); started once, it does everything.
"""

import os
from datetime import timedelta
from functools import cache
from typing import Any

RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
chosen: str | None = None  # "cpu", "cuda:1": compute there instead of where accelerate says


@cache
def state() -> Any:
    """Accelerate's view of this process among those that were launched together.

    They may wait long for the slowest: their shares are equal, what is left of them is not.
    """
    from accelerate import PartialState

    return PartialState(timeout=timedelta(days=7))


def device() -> str:
    """The device of this process."""
    return chosen or str(state().device)
