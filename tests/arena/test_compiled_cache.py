"""Compiled code never outlives the source that it was compiled from."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from arena.compiled import ROOMS

ROOT = Path(__file__).parents[2]


def test_compiled_functions_are_only_where_changes_are_looked_for():
    sources = [p for p in (ROOT / "arena").rglob("*.py") if "@compiled" in p.read_text("utf-8")]
    assert len(sources) > 10
    assert {path.parent.name for path in sources} == set(ROOMS)


def test_a_change_of_a_called_function_reaches_its_compiled_callers(tmp_path):
    shutil.copytree(ROOT / "arena", tmp_path / "arena", ignore=shutil.ignore_patterns("__py*"))
    code = "from arena.gaps.pairwise import strict_gap; print(strict_gap(1.0, 1.0)[2])"
    clean = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}

    def probability():
        run = [sys.executable, "-c", code]
        env = {**clean, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, check=True)
        return float(done.stdout)

    before = probability()
    assert before == probability()
    gaussian = tmp_path / "arena" / "ratings" / "gaussian.py"
    text = gaussian.read_text()
    wrong = text.replace("return 0.5 * math.erfc(-x", "return 0.25 * math.erfc(-x")
    assert wrong != text
    gaussian.write_text(wrong)
    assert probability() != before
