"""The method's statistics: votes, ratings, gaps and figures, without Dagster, MLflow or torch.

Compiled code is cached under a hash of every source file here. numba's own cache looks at the file
of a function and not at those that it calls, so after a change of `gaussian` alone the old machine
code would go on running in `sweeps`.
"""

import hashlib
import os
from pathlib import Path


def _cache() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return str(Path(__file__).parent / "__pycache__" / f"numba-{digest.hexdigest()[:12]}")


_set = os.environ.get("NUMBA_CACHE_DIR")
# One that a parent process of an earlier version left is not a person's choice.
if not _set or Path(_set).parent == Path(__file__).parent / "__pycache__":
    os.environ["NUMBA_CACHE_DIR"] = _cache()
