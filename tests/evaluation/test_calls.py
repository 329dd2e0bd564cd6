"""A stranger can follow an image from its file to a win rate: few functions of ours are entered."""

import sys
import threading
from pathlib import Path
from types import CodeType

from PIL import Image

import evaluation
from evaluation.__main__ import main

ROOM = str(Path(evaluation.__file__).parent)
# Distinct functions and methods of this room that one command enters, from the command line on.
MOST = {"score": 36, "compare": 45, "both": 75}


def entered(arguments: list[str]) -> set[CodeType]:
    """The code of every function under evaluation/ that a command enters, in any thread.

    Class bodies, comprehensions and lambdas stand inside of a function and are not counted.
    """
    seen: set[CodeType] = set()

    def note(frame, event, _):
        code = frame.f_code
        ours = code.co_filename.startswith(ROOM) and code.co_filename.endswith(".py")
        body = code.co_name[0] == "<" or "__qualname__" in code.co_names[:3]  # of a class
        if event == "call" and ours and not body:
            seen.add(code)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        assert main(arguments) == 0
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return seen


def test_an_images_way_from_its_file_to_a_win_rate_is_short(tmp_path, monkeypatch):
    rows = []
    for policy, shift in (("base", 0), ("new", 5)):
        for i in range(4):
            name = f"{policy}-{i}.png"
            Image.new("RGB", (32, 32), (20 * i + shift, 0, 0)).save(tmp_path / name)
            rows.append(f"{policy},prompt {i},{name}\n")
    (tmp_path / "images.csv").write_text("policy,prompt,image\n" + "".join(rows))
    (tmp_path / "reds.py").write_text(
        "def red(prompts, images):\n    return [image.getpixel((0, 0))[0] for image in images]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    scores = str(tmp_path / "scores.parquet")
    scored = entered(
        ["score", str(tmp_path / "images.csv"), "--scorer=red=reds:red", "--out", scores]
    )
    compared = entered(["compare", scores, "--baseline=base", "--out", str(tmp_path / "out")])
    both = scored | compared
    for command, codes in (("score", scored), ("compare", compared), ("both", both)):
        names = sorted(f"{Path(c.co_filename).name}:{c.co_qualname}" for c in codes)
        print(command, len(names), *names, sep="\n  ")
        assert len(names) <= MOST[command]
