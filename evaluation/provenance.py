"""What made a result: versions, weights and commit, written into every result."""

import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("arenapo", "torch", "transformers", "diffusers", "numpy", "scipy", "pillow")


@cache
def commit() -> str | None:
    """The commit of the project's checkout, with "+" where files differ; None outside of one."""
    root = Path(__file__).parents[1]

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=20
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


@cache
def versions() -> dict[str, str]:
    """Versions of the packages that decide numbers."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def provenance(weights: Mapping[str, str | None] | None = None) -> dict[str, Any]:
    """What a result says of its making; weights : name -> hash."""
    return {"versions": versions(), "commit": commit(), "weights": dict(weights or {})}
