"""`import arena` as a library: what it needs, what it loads, and what it leaves alone."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Lets only modules of these distributions be imported, as if no other were installed.
PLAIN = """
import sys
from importlib import metadata
allowed = set({allowed!r})
homes = metadata.packages_distributions()
class Only:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        dists = homes.get(top)
        if dists and not allowed & {{d.lower().replace("_", "-") for d in dists}}:
            raise ModuleNotFoundError(f"No module named {{name!r}} in the plain install", name=name)
        return None
sys.meta_path.insert(0, Only())
"""


def plain_install() -> set[str]:
    """Return the distributions that `pip install arenapo` brings, by their metadata."""
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert listed
    left = [re.split(r"[<>=\[ ]", name)[0] for name in re.findall(r'"(.+?)"', listed[1])]
    found = {"arenapo", "pip", "setuptools"}
    while left:
        name = left.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        for needed in metadata.requires(name) or ():
            if "extra ==" not in needed:
                left.append(re.split(r"[<>=!~;\[( ]", needed)[0])
    return found


def run(code: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", code]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


def test_the_plain_install_rates_votes_and_loads_no_torch_dagster_or_mlflow():
    allowed = plain_install()
    assert not allowed & {"torch", "dagster", "mlflow", "pandas", "trueskill"}
    done = run(
        PLAIN.format(allowed=sorted(allowed))
        + """
import polars as pl
import arena
from arena.prediction.tune import tune
for absent in ("torch", "dagster", "mlflow", "pandas"):
    try:
        __import__(absent)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{absent} is there, so this shows nothing")
votes = pl.DataFrame({"model_a": ["m", "n", "m"], "model_b": ["n", "o", "o"],
                      "outcome": ["a", "tie", "b"],
                      "image_a": ["1", "2", "3"], "image_b": ["4", "5", "2"]})
ratings = arena.TrueSkill().fit(votes)
assert 0.5 < ratings.win_probability("o", "m") < 1
arena.Thurstone().fit(votes)
arena.BradleyTerry().fit(votes)
assert arena.pairwise_gaps(votes, ratings).height == 3
arena.joint_gaps(votes, ratings)
tune(pl.concat([votes] * 20_000))
for name in arena.__all__:
    getattr(arena, name)
loaded = {"torch", "dagster", "mlflow", "diffusers", "transformers"} & set(sys.modules)
assert not loaded, loaded
"""
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_import_loads_nothing_and_changes_no_setting():
    done = run(
        """
import os, sys, warnings
before = dict(os.environ), set(sys.modules), list(warnings.filters)
import arena
assert dict(os.environ) == before[0] and list(warnings.filters) == before[2]
heavy = {"numpy", "polars", "numba", "scipy", "matplotlib", "pyarrow"} & set(sys.modules)
assert not heavy, heavy
assert set(arena.__all__) <= set(dir(arena))
"""
    )
    assert (done.returncode, done.stderr) == (0, "")
