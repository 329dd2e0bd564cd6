"""Run a stand-in for the job whose command line follows; a study's [jobs] launch names this."""

import runpy
import sys
from pathlib import Path

place = sys.argv.index("-m") + 1
sys.argv = sys.argv[place:]
runpy.run_path(str(Path(__file__).parent / f"{sys.argv[0]}.py"), run_name="__main__")
