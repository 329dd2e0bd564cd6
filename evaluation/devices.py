"""Where a job computes, and which part of the work this process does.

A job that `accelerate launch`, torchrun or srun starts several times shares its work out by rank;
started once, it does everything. Nothing else in the room knows how many processes there are.
"""

import os
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

Item = TypeVar("Item")
CHOSEN: list[str] = []


def choose(device: str | None) -> None:
    """Compute on this device ("cpu", "cuda:1") instead of the one that accelerate picks."""
    CHOSEN[:] = [device] if device else []


@cache
def state() -> Any:
    """Accelerate's view of this process among those that were launched together.

    They may wait long for the slowest: their shares are equal, what is left of them is not.
    """
    from accelerate import PartialState

    return PartialState(timeout=timedelta(days=7))


def device() -> str:
    """The device of this process."""
    return CHOSEN[0] if CHOSEN else str(state().device)


def alone() -> bool:
    """Whether this is the only process of the job."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


def first() -> bool:
    """Whether this process is the one that writes tables and speaks."""
    return int(os.environ.get("RANK", "0")) == 0


def part_of(items: Sequence[Item]) -> Sequence[Item]:
    """The items that are this process's to do."""
    if alone():
        return items
    return items[state().process_index :: state().num_processes]


def wait() -> None:
    """Wait until every process of the job has come as far."""
    if not alone():
        state().wait_for_everyone()
