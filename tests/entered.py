"""Which functions of a room a call enters: how many steps a reader has to follow."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


def entered(room: ModuleType, call: Callable[[], Any]) -> set[str]:
    """Return the functions and methods under a room that a call enters, in any thread.

    Class bodies, comprehensions and lambdas stand inside of a function and are not counted.
    """
    folder, seen = str(Path(str(room.__file__)).parent), set()

    def note(frame, event, _):
        code = frame.f_code
        ours = code.co_filename.startswith(folder) and code.co_filename.endswith(".py")
        body = code.co_name[0] == "<" or "__qualname__" in code.co_names[:3]  # of a class
        if event == "call" and ours and not body:
            place = f"{code.co_filename.removeprefix(folder)}:{code.co_firstlineno}"
            seen.add(f"{place} {code.co_qualname}")

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return seen
