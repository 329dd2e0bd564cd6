"""Run a stand-in for the job whose command line follows; a study's [jobs] launch names this."""

import runpy
import sys
from pathlib import Path

place = sys.argv.index("assets.child")
sys.argv = sys.argv[place:]
sys.path.insert(0, str(Path(__file__).parents[3]))

from assets import child  # noqa: E402


def run_stand_in(module: str, **_: object) -> None:
    runpy.run_path(str(Path(__file__).parent / f"{module}.py"), run_name="__main__")


child.runpy.run_module = run_stand_in
child.main()
