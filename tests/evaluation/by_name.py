"""A scorer from its name, as the command line has it."""

from typing import Any

from evaluation.scorers.naming import load, parse


def load_scorer(name: str) -> Any:
    return load(parse(name))
