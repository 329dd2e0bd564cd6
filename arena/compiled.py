"""Compiled functions, whose machine code is kept between runs and never outlives its sources.

numba looks at the file of a function and not at those that it calls, so after a change of
`gaussian` alone the old code would go on running in `sweeps`. Where any source of these rooms is
newer than the kept code, that code is removed before the first function is compiled.
"""

import os
from pathlib import Path
from typing import Any

from numba import njit

HERE = Path(__file__).parent
ROOMS = ("ratings", "gaps", "prediction")  # a compiled function calls only what is in these


def _remove_stale() -> None:
    kept = list(HERE.rglob("__pycache__/*.nbi"))
    if not kept or "NUMBA_CACHE_DIR" in os.environ:
        return
    sources = (path for room in ROOMS for path in (HERE / room).glob("*.py"))
    newest = max(path.stat().st_mtime_ns for path in sources)
    for path in kept:
        try:
            if path.stat().st_mtime_ns < newest:
                path.unlink()
        except OSError:  # another process was faster, or the folder is not ours
            continue


_remove_stale()

# The GIL is released; a division by zero gives infinity as in numpy; machine code is kept on disk.
compiled: Any = njit(cache=True, nogil=True, error_model="numpy")
