"""The Dagster home: the folder of dagster.yaml, and the studies that are served from it.

What Dagster writes lies below the home, wherever a command was typed.
"""

import glob
import os
import shutil
import sys
from pathlib import Path

import dagster as dg

from assets.dagster_internals import open_instance
from assets.lake import Lake
from assets.store import private_folder
from assets.study import Study, read_study

HOUSE = Path(__file__).resolve().parents[1]
MINIATURE = HOUSE / "experiments" / "miniature.toml"
STUDIES = "ARENAPO_STUDIES"


def enter() -> Path:
    """Make the home the working directory and the environment's DAGSTER_HOME; return it.

    It is $DAGSTER_HOME, else the folder of the project's dagster.yaml. Raises ValueError for one
    that is relative or not there.
    """
    named = os.environ.get("DAGSTER_HOME")
    home = Path(named) if named else HOUSE
    if not home.is_absolute() or not home.is_dir():
        what = (
            "is not there" if home.is_absolute() else "is relative to wherever a command is typed"
        )
        raise ValueError(
            f"DAGSTER_HOME={named} {what}; name a folder by its whole path, or unset it and "
            f"{HOUSE} serves"
        )
    if not (config(home) / "dagster.yaml").exists():
        raise ValueError(f"{home} holds no dagster.yaml; copy the project's into it")
    os.environ["DAGSTER_HOME"] = str(home)
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.chdir(home)  # dagster.yaml names its folders from here
    return home


def config(home: Path) -> Path:
    """Return the folder whose dagster.yaml counts: the home's own, else the project's."""
    return home if (home / "dagster.yaml").exists() else HOUSE


def complete(home: Path) -> None:
    """Give a home without a dagster.yaml the project's, for processes that look for it there."""
    if not (home / "dagster.yaml").exists():
        shutil.copyfile(HOUSE / "dagster.yaml", home / "dagster.yaml")


def opened(home: Path) -> dg.DagsterInstance:
    """Open the home's instance; its databases are made when they are not there yet."""
    private_folder(home / ".dagster")
    return open_instance(home, config(home))


def reading(home: Path) -> dg.DagsterInstance:
    """Return the home's instance where it has a history, else an empty one in memory.

    Opening the real one would make its databases.
    """
    storage = home / ".dagster" / "storage"
    known = storage.exists() or "postgres" in (config(home) / "dagster.yaml").read_text()
    return opened(home) if known else dg.DagsterInstance.ephemeral()


def studies_of_home() -> list[Study]:
    """Return the studies that ARENAPO_STUDIES names: paths or patterns, as in PATH.

    One with a mistake in it is named on stderr and left out, so that the others go on. Raises
    ValueError where none is left, and where two would share a name or a lake.
    """
    words = os.environ.get(STUDIES) or str(MINIATURE)
    paths: list[Path] = []
    for word in words.split(os.pathsep):
        matching = sorted(glob.glob(word, recursive=True)) if glob.has_magic(word) else [word]  # noqa: PTH207
        paths += [Path(each).resolve() for each in matching]
    studies, faults = [], []
    for path in dict.fromkeys(paths):
        try:
            studies.append(read_study(path))
        except ValueError as error:
            faults.append(str(error))
            print(f"{STUDIES}: {error}", file=sys.stderr)
    if not studies:
        raise ValueError(faults[0] if faults else f"{STUDIES}={words}: no study matches")
    apart(studies)
    return studies


def apart(studies: list[Study]) -> None:
    """Raise ValueError naming two studies that share a name or a lake."""
    for number, one in enumerate(studies):
        for other in studies[:number]:
            if one.called("") == other.called(""):
                raise ValueError(
                    f"{other.path} and {one.path}: both studies are called {one.name}; give each "
                    "a name of its own"
                )
            if (name := Lake(one.lake).name) == Lake(other.lake).name:
                raise ValueError(
                    f"{other.path} and {one.path}: both write to {name}; give each a lake of its "
                    "own"
                )
