"""A stranger can follow an image from its file to a win rate: few functions of ours are entered."""

from entered import entered
from PIL import Image

import evaluation
from evaluation.__main__ import main

# Distinct functions and methods of this room that one command enters, from the command line on.
MOST = {"score": 29, "compare": 33, "both": 57}


def entered_by(arguments: list[str]) -> set[str]:
    """The functions of evaluation/ that a command enters, from the command line on."""

    def run() -> None:
        assert main(arguments) == 0

    return entered(evaluation, run)


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
    scored = entered_by(
        ["score", str(tmp_path / "images.csv"), "--scorer=red=reds:red", "--out", scores]
    )
    compared = entered_by(["compare", scores, "--baseline=base", "--out", str(tmp_path / "out")])
    both = scored | compared
    for command, way in (("score", scored), ("compare", compared), ("both", both)):
        assert 10 < len(way) <= MOST[command], (command, sorted(way))
