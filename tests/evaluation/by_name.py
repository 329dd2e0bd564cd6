"""A scorer from its name, as the command line has it."""

from typing import Any

from evaluation import scorers
from evaluation.scorers.naming import parse


def load_scorer(name: str) -> Any:
    return scorers.load(parse(name))
